"""What planning costs, at one depth."""

from __future__ import annotations

import pytest

from bench.orders.depth import plan_at_depth


@pytest.mark.plans
def test_a_row_has_both_times_and_both_peaks() -> None:
    plan_at_depth("gpt", 1)  # what only the first compile of a process does
    row = plan_at_depth("gpt", 2)
    assert row.peak <= row.stock_peak
    assert 0 < row.planner_s < row.stock_s / 2, "a small model without gaps: planning is a small part"
    assert "2 layers" in str(row)

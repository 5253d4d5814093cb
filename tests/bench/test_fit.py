"""Peak against work, from made-up points: what the table says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.fit.command import figure, main, markdown, work_at_stocks_peaks
from bench.fit.ways import Point

MIB = 2**20


def points(memsched: list[tuple[int, int]]) -> list[Point]:
    """Stock needs 100 MiB for 10 FLOPs, or 60 for 12; memsched what is given, as (MiB, FLOPs)."""
    found = [
        Point("m", "eager", "none", 120 * MIB, 0, 10),
        Point("m", "stock", "budget 1", 100 * MIB, 100 * MIB, 10),
        Point("m", "stock", "budget 0.5", 60 * MIB, 60 * MIB, 12),
    ]
    return found + [Point("m", "memsched", str(at), peak * MIB, 0, work) for at, (peak, work) in enumerate(memsched)]


def test_work_is_compared_at_every_peak_that_stock_reaches() -> None:
    assert work_at_stocks_peaks(points([(90, 10), (50, 11)])) == pytest.approx(1.0)  # 10 / 10, 11 / 12
    assert work_at_stocks_peaks(points([(90, 10), (50, 15)])) == pytest.approx(15 / 12)
    assert work_at_stocks_peaks(points([(90, 10)])) == float("inf"), "60 MiB is not reached"


def test_the_table_has_the_lowest_peaks_and_what_they_cost() -> None:
    text = markdown({"m": points([(90, 10), (50, 11)])})
    assert (
        "| m | 120.00 | 100.00 | 60.00 (budget 0.5, +20% work) | 90.00 (0.90) | **50.00** (0.50, +10% work) | 1.00 |"
        in text
    )
    assert figure({"m": points([(90, 10)])}).startswith(b"\x89PNG")


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["gtp", "--output", str(tmp_path / "fit.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1

"""The gate of CI: a risen peak is a failed test, on the smoke suite as it is planned now."""

from __future__ import annotations

import pytest

from bench.run import smoke
from bench.run.smoke import Planned, faults_of


def test_a_risen_peak_is_a_fault() -> None:
    assert faults_of("gpt", Planned(stock=10, memsched=9, bound=9), baseline=9) == []
    assert "rose from 8 to 9" in faults_of("gpt", Planned(stock=10, memsched=9, bound=9), baseline=8)[0]


def test_a_peak_above_stock_is_a_fault() -> None:
    assert "stock 10" in faults_of("gpt", Planned(stock=10, memsched=11, bound=9), baseline=11)[0]


def test_a_model_without_a_baseline_is_a_fault() -> None:
    assert "no baseline" in faults_of("new", Planned(1, 1, 1), None)[0]


@pytest.mark.plans
@pytest.mark.parametrize("name", smoke.smoke_models())
def test_no_model_peaks_above_its_baseline_or_above_stock(name: str) -> None:
    planned = smoke.plan_model(name)
    assert planned.bound <= planned.memsched
    assert faults_of(name, planned, smoke.read_baselines().get(name)) == []

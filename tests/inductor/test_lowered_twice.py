"""A rewrite that may raise the peak is made where the plan with it is lower, and nowhere else.

The models are random ones of `bench.models.random_operators`, found by planning them both ways:

    bold    a step whose estimate falls by 20%, while its backward needs 83,520 bytes with the sums, 82,176 without;
            stock needs 82,432
    kind    a step whose backward needs 99,328 bytes with the sums, 115,456 without
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

import memsched
from bench.memory.no_kernels import kernels_that_do_nothing
from bench.models.random_operators import Family, step
from memsched.inductor import lowered_twice
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions
from memsched.inductor.rewrites import rules
from memsched.inductor.session import PlanningSession

BOLD, KIND = 62, 128


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def planned(seed: int, *, stock: bool = False) -> int:
    model, batch = step(seed, Family.FLOAT32)
    return max(report.peak for report in plan_only(model, batch, stock=stock))


def planned_with_the_sums(seed: int, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> int:
    """Whatever the plans say."""
    with monkeypatch.context() as patched:
        patched.setattr(lowered_twice, "is_below", lambda _peak: lambda _report: wanted)
        return planned(seed)


def compiled(seed: int) -> list[memsched.GraphReport]:
    """The reports of one compiled step, with kernels that do nothing."""
    memsched.reset()
    model, batch = step(seed, Family.FLOAT32)
    with kernels_that_do_nothing():
        torch.compile(model, backend="memsched")(*batch).backward()
    return memsched.reports()


@pytest.mark.parametrize("seed", [BOLD, KIND])
def test_the_lower_way_is_planned(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = planned_with_the_sums(seed, True, monkeypatch)
    without = planned_with_the_sums(seed, False, monkeypatch)
    assert with_it != without, "the model no longer shows anything"
    assert planned(seed) == min(with_it, without)
    assert planned(seed) <= planned(seed, stock=True)
    assert (with_it < without) == (seed == KIND)


@pytest.mark.compile
@pytest.mark.parametrize("seed", [BOLD, KIND])
def test_what_is_compiled_is_what_was_planned_and_trials_are_not_reported(seed: int) -> None:
    reports = compiled(seed)
    assert len(reports) == 2, [report.name for report in reports]
    assert max(report.peak for report in reports) == planned(seed)
    realized = {report.rewrites.get("realize_sums", 0) > 0 for report in reports}
    assert realized == ({False} if seed == BOLD else {False, True})


@pytest.mark.compile
def test_a_cache_keeps_what_was_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry is found under the key of the question, so nothing is planned a second time."""
    peak = planned(KIND)
    with fresh_cache():
        first = step(KIND, Family.FLOAT32)
        torch.compile(first[0], backend="memsched")(*first[1]).backward()
        torch._dynamo.reset()
        memsched.reset()
        counters.clear()
        monkeypatch.setattr(lowered_twice, "is_below", lambda *_: pytest.fail("planned again"))
        model, batch = step(KIND, Family.FLOAT32)
        torch.compile(model, backend="memsched")(*batch).backward()
    assert counters["inductor"]["fxgraph_cache_miss"] == 0 < counters["inductor"]["fxgraph_cache_hit"]
    assert max(report.peak for report in memsched.reports()) == peak


def failing(*_: Any) -> Any:
    raise RuntimeError("no judge")


def test_a_graph_that_cannot_be_judged_goes_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without = planned_with_the_sums(KIND, False, monkeypatch)
    monkeypatch.setattr(lowered_twice, "is_below", failing)
    model, batch = step(KIND, Family.FLOAT32)
    with caplog.at_level(logging.WARNING, logger="memsched"):
        assert max(report.peak for report in plan_only(model, batch, BackendOptions())) == without
    assert [record for record in caplog.records if "no judge" in record.message]
    with pytest.raises(Exception, match="no judge"):
        plan_only(model, batch, BackendOptions(strict=True))


def test_a_failure_of_the_planner_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The plan without the sums fails, so none is made with them, and none again."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("no plan")

    monkeypatch.setattr(PlanningSession, "_order", fail)
    model, batch = step(KIND, Family.FLOAT32)
    with caplog.at_level(logging.WARNING, logger="memsched"):
        reports = plan_only(model, batch, BackendOptions())
    assert all(report.fallback for report in reports)
    assert sum("no plan" in record.message for record in caplog.records) == len(reports) == 2


def test_only_what_has_something_to_change_is_lowered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(lowered_twice, "is_below", lambda *_: asked.append(1))
    weight = torch.randn(8, 8, requires_grad=True)
    plan_only(lambda x: (x @ weight).relu().sum(), (torch.randn(4, 8),))
    assert not asked
    assert any(rule.is_judged for rule in rules.GRAPH_RULES)

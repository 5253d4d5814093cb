"""What was measured lies on the plan's axis: where the memory model is exact, so is the curve, step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import memsched
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import memory_profile
from memsched.core.result import Schedule, Status
from memsched.inductor.questions.curve import _curve, _places, _Sample
from memsched.records.report import GraphReport


def test_marks_lie_in_the_step_whose_buffer_is_named() -> None:
    """Two statements of step 0, one of step 2 (step 1 names nothing), three of step 3, one of them late for step 0."""
    places = _places([None, 0, None, 2, 3, 0, None], 4)
    assert places == sorted(places) and all(0 < place < 4 for place in places)
    assert [int(place) for place in places] == [0, 0, 0, 2, 3, 3, 3]


def test_a_curve_begins_at_the_level_of_the_plan() -> None:
    """An input of 5 bytes, freed by the op that writes 3; the process held 100 bytes more than the graph knows of."""
    graph = Graph("g", (Op("a"),), (Buffer("x", 5, None, (0,)), Buffer("y", 3, 0, (), True)))
    plan = Schedule((0,), 8, 8, Status.OPTIMAL, "given", 0.0)
    figures = {"stock_peak": 8, "peak": 8, "lower_bound": 8, "gap": 0.0, "seconds": 0.0, "kernels": 1}
    report = GraphReport("g", "forward", 1, status="optimal", method="", graph=graph, schedule=plan, **figures)
    samples = [_Sample("g", 0, 105, 105), _Sample("g", 1, 108, 108), _Sample("g", 2, 103, 108)]
    curve = _curve(report, [None, 0, None], samples, "cpu")
    assert (curve.levels[0], curve.peak, curve.levels[-1]) == (5, 8, 3)


def products(x: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Matrix products only: nothing is fused, nothing is written in place, so that the model is exact."""
    return (x @ first) @ second @ third


@pytest.mark.compile
def test_products_hold_exactly_what_the_plan_says() -> None:
    batch = torch.randn(64, 64), torch.randn(64, 512), torch.randn(512, 128), torch.randn(128, 16)
    found = memsched.explain(products, *batch, train=False, measure=True, experiments=False, stock=False)
    (graph,), planned = found.graphs, found.planned
    assert planned is not None and planned.reports[0].graph is not None and planned.reports[0].schedule is not None
    assert graph.measured_peak == graph.peak == (64 * 512 + 64 * 128) * 4
    assert "measured" in str(found) and "+0.0%" in str(found)
    (curve,) = planned.measured.values()
    profile = memory_profile(planned.reports[0].graph, planned.reports[0].schedule.order)
    for step, predicted in enumerate(profile.step_peaks):
        inside = [level for place, level in zip(curve.places, curve.levels, strict=True) if step <= place < step + 1]
        assert max(inside) == predicted

"""The drawing of a whole step: as high as the plans say, held bytes below, the optimizer's own step at the end."""

from __future__ import annotations

import re
from dataclasses import replace

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Options
from memsched.records.explanation import StepMemory
from memsched.records.report import GraphKind, GraphReport
from memsched.records.step import HeldBytes, OptimizerStep, PlannedStep
from memsched.render.page.step_picture import step_bar, step_curve
from memsched.search.solver import solve
from tests.core.test_graph import diamond
from tests.search.test_solver import two_hills

HELD = HeldBytes(parameters=20, optimizer_state=10)


def report(name: str, kind: GraphKind, graph: Graph) -> GraphReport:
    schedule = solve(graph, Options(method="stock"))
    unplanned = GraphReport.left_to_stock(name, kind, len(graph), len(graph), "", 0.0)
    return replace(unplanned, graph=graph, schedule=schedule, peak=schedule.peak, fallback="")


def planned(held: HeldBytes = HELD) -> PlannedStep:
    forward = report("forward 0", GraphKind.FORWARD, diamond())
    backward = report("backward 0", GraphKind.BACKWARD, two_hills())
    return PlannedStep((forward, backward), stock=(forward,), held=held)


def heights(markup: str, shape: str) -> list[float]:
    """The y of every corner of the shapes with that class."""
    points = re.findall(rf'class="{shape}" points="([^"]*)"', markup)
    return [float(point.split(",")[1]) for some in points for point in some.split()]


def test_the_curve_is_as_high_as_the_plans() -> None:
    """The highest corner is the peak of the step; 5% is left above it, and what is held is a band of its share."""
    step = planned()
    peaks = [peak_bytes(one.graph, one.schedule.order) for one in step.reports]
    top, markup = HELD.total + max(peaks), step_curve(step)
    assert f"at most {top} bytes" in markup and f"the caller holds {HELD.total} bytes" in markup
    floor = max(heights(markup, "ours"))
    height = float(re.search(r'class="base"[^>]*height="([\d.]+)"', markup)[1])
    assert abs(height / HELD.total - (floor - min(heights(markup, "ours"))) / max(peaks)) < 0.05
    assert markup.count('class="ours"') == 2 and markup.count('class="stock"') == 1
    assert "forward 0" in markup and "backward 0" in markup


def test_the_optimizer_s_step_is_drawn_where_it_is_known() -> None:
    update = OptimizerStep(state=10, gradients=20, temporaries=40)
    markup = step_curve(planned(replace(HELD, update=update)))
    assert "at most 90 bytes" in markup, "30 are held, and its step needs 60 more than any graph"
    assert 'class="update"' in markup and 'class="update"' not in step_curve(planned())


def test_nothing_is_drawn_of_what_is_not_known() -> None:
    assert step_curve(PlannedStep(())) == ""
    assert step_curve(replace(planned(), step_known=False)) == ""


def test_the_bar_has_the_share_of_every_part() -> None:
    step = StepMemory("backward 0", HELD, gradients=10, saved=40, transients=15, workspace=5)
    markup = step_bar(step)
    widths = [float(width) for width in re.findall(r'<rect[^>]*width="([\d.]+)"', markup)]
    assert widths == [200.0, 100.0, 100.0, 400.0, 150.0, 50.0]
    assert "saved activations 40 bytes, 40%" in markup and "batch" not in markup


def test_names_are_escaped() -> None:
    step = planned()
    hostile = replace(step, reports=tuple(replace(one, name="<script>") for one in step.reports))
    assert "<script>" not in step_curve(hostile)

"""A step of many equal layers, from plans of two steps that have fewer of them.

    layers           2       4   ──>  32
    peak           20.0    22.0     50.0     a fixed part, and as much again for each layer
    gradients       8.0    12.0     68.0     what is left at the end of a graph: more than that, with many layers

The highest moment of few layers need not be that of many.  But where another one takes over, what is kept there has
grown: the tensors that a graph leaves behind, which do not depend on its order either.

Claim: none.  The peak is a line only as long as the same moment binds, so the result is marked as estimated, has no
bound, and is only used to find out which settings are worth a plan with all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memsched.core.peak import memory_profile
from memsched.levers.ladder import Rung
from memsched.levers.moments import Moment
from memsched.records.report import GraphKind, GraphReport

__all__ = ["ShallowRung", "at_depth"]


@dataclass(frozen=True, slots=True)
class ShallowRung:
    """The rung of a step with `depth` layers, and the reports of its graphs, which are the same ones at every depth."""

    depth: int
    rung: Rung
    reports: Sequence[GraphReport]


def at_depth(shallow: ShallowRung, deeper: ShallowRung, depth: int) -> Rung:
    """The estimated rung of the same setting with `depth` layers, more than the two have, which differ in depth."""

    def go_on(one: int, other: int) -> int:
        """The value at `depth` on the line through two."""
        return max(0, one + (other - one) * (depth - shallow.depth) // (deeper.depth - shallow.depth))

    one, other = shallow.rung, deeper.rung
    left = [
        (go_on(_left(first), _left(second)), second)
        for first, second in zip(shallow.reports, deeper.reports, strict=False)
    ]
    peak, moment, graph = go_on(one.peak, other.peak), other.moment, other.graph
    for level, report in left:
        if level > peak:
            peak, moment, graph = level, _end_of(report), report.name
    return replace(
        other,
        peak=peak,
        stock_peak=max(go_on(one.stock_peak, other.stock_peak), *(level for level, _ in left), 0),
        bound=0,
        status="estimated",
        moment=moment,
        kernels=go_on(one.kernels, other.kernels),
        flops=go_on(one.flops, other.flops),
        graph=graph,
        moved=go_on(one.moved, other.moved),
        estimated=True,
    )


def _left(report: GraphReport) -> int:
    """Bytes that the graph leaves behind."""
    if report.graph is None or report.schedule is None or not len(report.graph):
        return 0
    return memory_profile(report.graph, report.schedule.order).levels[-1]


def _end_of(report: GraphReport) -> Moment:
    return {GraphKind.FORWARD: Moment.LOSS, GraphKind.BACKWARD: Moment.END}.get(report.kind, Moment.UNKNOWN)

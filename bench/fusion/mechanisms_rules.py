"""The rules of `bench.fusion.mechanisms`, as Inductor's fusion choices and scheduler passes; imported where torch may
be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch._inductor.choices import InductorChoices

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Schedule, Status
from memsched.inductor.capture.lower import Way, planned_way
from memsched.inductor.choices import PlannedChoices
from memsched.inductor.compat import SchedulerPass
from memsched.inductor.extract import extract_graph
from memsched.inductor.host import graph_name
from memsched.inductor.observe import ObservingPass
from memsched.inductor.options import BackendOptions
from memsched.inductor.session import PlanningSession
from memsched.records.report import GraphReport

__all__ = ["ways"]


class NoHorizontal(InductorChoices):  # type: ignore[misc]
    """Nodes that do not depend on each other stay apart."""

    @staticmethod
    def can_fuse_horizontal(scheduler: Any, node1: Any, node2: Any, shared_data_score: int) -> bool:
        return False


class NoWaiting(InductorChoices):  # type: ignore[misc]
    """A reduction is not fused with a consumer that waits for something that the reduction does not wait for."""

    @staticmethod
    def can_fuse_vertical(scheduler: Any, node1: Any, node2: Any, shared_data_score: int) -> bool:
        waits = node2.ancestors - node1.ancestors - node1.get_operation_names()
        stock = InductorChoices.can_fuse_vertical(scheduler, node1, node2, shared_data_score)
        return stock and not (node1.is_reduction() and waits)


class Neither(NoWaiting, NoHorizontal):
    """Both rules."""


class StiffSession(PlanningSession):
    """memsched without the search for another order: a fusion that does not fit the plan's order is refused."""

    def _plan(self, nodes: Any) -> None:
        super()._plan(nodes)
        assert self.planner is not None
        self.planner.forbid_search()


class GuardSession(StiffSession):
    """The guard's order is Inductor's incoming one, and no other order is searched for a fusion that does not fit."""

    def _low_order(self, graph: Graph) -> Schedule:
        order = graph.topological_order
        return Schedule(order, peak_bytes(graph, order), 0, Status.HEURISTIC, "incoming", 0.0)


class Before(SchedulerPass):  # type: ignore[misc]
    """Keeps the graph before fusion, begins a session if there is to be one, then runs the pass that was there."""

    def __init__(
        self, inner: SchedulerPass | None = None, session: Callable[[], PlanningSession] | None = None
    ) -> None:
        self.inner, self.session = inner, session
        self.graph: Graph | None = None

    def __call__(self, nodes: list[Any]) -> list[Any]:
        if nodes:
            name = graph_name()
            self.graph = extract_graph(nodes, name, "prefusion")
            if self.session:
                self.session().before_fusion(nodes)
        return nodes if self.inner is None else self.inner(nodes)

    def uuid(self) -> str:
        return "bench: before fusion"


def ways(rules: Sequence[str] | None = None) -> list[Way]:
    """The rules of these names, by default all of them, as ways to compile a graph."""
    options = BackendOptions(strict=True)

    def watched(name: str, choices: Callable[[], Any], session: Callable[[], PlanningSession] | None = None) -> Way:
        reports: list[GraphReport] = []
        observing = ObservingPass(reports.append)
        passes = {"_pre_fusion_custom_pass": Before(None, session), "_post_fusion_custom_pass": observing}
        return Way(name, passes, choices, reports=reports)

    def planned(name: str, stiff: bool) -> Way:
        way = planned_way(options)
        begins = way.patches["_pre_fusion_custom_pass"]
        before = Before(None, lambda: StiffSession(options, way.reports.append)) if stiff else Before(begins)
        return replace(way, name=name, patches={**way.patches, "_pre_fusion_custom_pass": before}, cut={})

    known = [
        watched("stock", InductorChoices),
        watched("no waiting", NoWaiting),
        watched("no horizontal", NoHorizontal),
        watched("neither", Neither),
        watched("2.15's guard", lambda: PlannedChoices(options), lambda: GuardSession(options, _nowhere)),
        planned("memsched, plan's order", stiff=True),
        planned("memsched", stiff=False),
    ]
    return [way for way in known if rules is None or way.name in rules]


def _nowhere(_report: GraphReport) -> None:
    """The sink of a session that only answers questions; an observing pass reports."""

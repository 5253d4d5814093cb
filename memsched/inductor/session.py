"""Planning one compiled graph, from the nodes before fusion to the order after it.

    nodes before fusion ──> graph ──> plan: a low order, its peak is the budget
                                        │
    Inductor asks: may these two fuse? ─┤  contracted plan within the budget?  (memsched.fusion)
                                        ▼
    nodes after fusion ───> graph ──> solve from the plan's order and Inductor's four ──> verified order

A session belongs to one scheduler.  Whatever fails inside it is a `fallback`: stock's behaviour from there on, one
warning, a counter; with `strict` it raises.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from torch._inductor import config
from torch._inductor.virtualized import V

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Options, Schedule, Status
from memsched.fusion.planner import FusionPlanner
from memsched.inductor.extract import extract_graph, ranged_buffers
from memsched.inductor.failures import leave_to_stock, reason_of
from memsched.inductor.flops import flops_of
from memsched.inductor.host import graph_kind, graph_name, num_kernels, stock_reorder
from memsched.inductor.options import BackendOptions
from memsched.inductor.order_only import forget_order_only_readers
from memsched.inductor.origins import origins_of
from memsched.inductor.publish import Sink
from memsched.inductor.rewrites.rules import rewrites_of
from memsched.inductor.storages.build import model_of
from memsched.inductor.storages.emissions import cut_groups, emissions
from memsched.records.fusion import MadeFusion, RefusedFusion
from memsched.records.report import GraphReport
from memsched.search.budget import repeatable
from memsched.search.orders.inductor import priority_order, stock_orders
from memsched.search.solver import solve
from memsched.storage.kernel_groups import cuts, grouped_peak
from memsched.storage.order import ModelledOrder, order_under

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["PlanningSession", "begin_session", "session_of"]


T = TypeVar("T")

_sessions: weakref.WeakKeyDictionary[Scheduler, PlanningSession] = weakref.WeakKeyDictionary()


def session_of(scheduler: Scheduler) -> PlanningSession | None:
    """The session that plans for `scheduler`, if the pre-fusion pass has begun one."""
    return _sessions.get(scheduler)


def begin_session(options: BackendOptions, sink: Sink) -> PlanningSession | None:
    """A session for the scheduler of `V.graph`; None after a failure, which leaves the graph to stock."""
    try:
        return PlanningSession(options, sink)
    except Exception as error:
        if options.strict:
            raise
        leave_to_stock("a graph", "beginning to plan", reason_of(error))
        return None


class PlanningSession:
    """The plan of one scheduler; methods are called by the passes and by the fusion choices, in that order.

    until_fused: what holds between the two passes.
    """

    def __init__(self, options: BackendOptions, sink: Sink) -> None:
        self.options = options
        self.sink = sink
        self.until_fused = contextlib.ExitStack()
        self.kind = graph_kind()
        self.name = graph_name()
        self.fallback = ""
        self.seconds = 0.0
        self._began = 0.0
        self.prefusion: Graph | None = None
        self.planner: FusionPlanner | None = None
        self._fusion_note = ""
        self._op_of_name: dict[str, int] = {}
        self._name_of_op: list[str] = []
        self._approved: tuple[list[int], list[int]] | None = None
        self._scheduler: Scheduler = weakref.proxy(V.graph.scheduler)
        _sessions[V.graph.scheduler] = self

    def before_fusion(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        """Plan an order of the nodes before fusion, and prepare the fusion planner with its peak as budget."""
        if nodes:
            self._guarded("planning before fusion", lambda: self._plan(nodes))
        return nodes

    def may_fuse(self, first: BaseSchedulerNode, second: BaseSchedulerNode, shared: int = 0) -> bool:
        """Whether the plan has room for this fusion; True whenever there is no plan.

        shared: bytes that both nodes touch, as Inductor counts them (`Scheduler.score_fusion_memory`).
        """
        if self.planner is None or self.fallback:
            return True
        answer = self._guarded("judging a fusion", lambda: self._judge(first, second, shared))
        return True if answer is None else answer

    def _judge(self, first: BaseSchedulerNode, second: BaseSchedulerNode, shared: int) -> bool:
        """Ask the planner, after telling it whether Inductor made the fusion that it approved last.

        Inductor asks twice: about all candidates of a round, and again right before it fuses one.  It does not say
        which question it is, so only the last approval can have been followed by a fusion.
        """
        assert self.planner is not None
        if self._approved is not None:
            ops, other = self._approved
            if self._fused_node(ops[0]) is self._fused_node(other[0]):
                self.planner.fuse([*ops, *other])
        ops, other = self._ops(first), self._ops(second)
        answer = self.planner.may_fuse(ops, other, shared)
        self._approved = (ops, other) if answer and ops and other else None
        return answer

    def _fused_node(self, op: int) -> BaseSchedulerNode:
        return self._scheduler.name_to_fused_node[self._name_of_op[op]]

    def after_fusion(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        """The nodes in the best order found; in stock's order when anything failed.

        A graph without nodes (only views of inputs) is neither planned nor reported.
        """
        if not nodes:
            return nodes
        ordered = None if self.fallback else self._guarded("ordering after fusion", lambda: self._order(nodes))
        if ordered is None:
            ordered = stock_reorder(nodes)
            self._guarded("reporting a fallback", lambda: self._report_fallback(nodes))
        return ordered

    def _plan(self, nodes: Sequence[BaseSchedulerNode]) -> None:
        self.prefusion = extract_graph(nodes, self.name, "prefusion")
        if self.options.fusion == "stock":
            return
        plan = self._low_order(self.prefusion)
        budget = self._fusion_budget(self.prefusion, plan.peak)
        self.planner = FusionPlanner(
            self.prefusion, plan.order, budget, max_extra_kernels=self.options.max_extra_kernels
        )
        self._op_of_name = {name: at for at, node in enumerate(nodes) for name in node.get_operation_names()}
        self._name_of_op = [node.get_first_name() for node in nodes]

    def _fusion_budget(self, graph: Graph, planned_peak: int) -> int:
        """The bytes that fusions may need; a budget below the plan's own peak cannot be kept, whatever is refused."""
        if self.options.fusion == "plan":
            return int(planned_peak * (1 + self.options.fusion_slack))
        stock_peak = min(peak_bytes(graph, order) for order in stock_orders(graph).values())
        wanted = self.options.budget_bytes(stock_peak)
        if wanted < planned_peak:
            self._fusion_note = f"no order was found within the budget of {wanted} bytes, the plan needs {planned_peak}"
        return max(planned_peak, wanted)

    def _low_order(self, graph: Graph) -> Schedule:
        """A low order before fusion, which needs no proof: local search, unless a short exact search closes the gap."""
        exact = solve(graph, self._solver_options(0.05, method="valley"))
        if exact.peak == exact.lower_bound:
            return exact
        return solve(graph, self._solver_options(0.45, method="local"), start_orders=[exact.order])

    def _order(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        forget_order_only_readers(nodes)
        graph = extract_graph(nodes, self.name, "postfusion")
        # Fusion may have permuted nodes with effects against program order: start from an order that restores it.
        legal = priority_order(graph, range(len(nodes)))
        if legal != tuple(range(len(nodes))):
            nodes = [nodes[op] for op in legal]
            graph = extract_graph(nodes, self.name, "postfusion")
        model = model_of(graph, nodes)
        planned = [self._planned_order(graph, nodes)] if self.planner else []
        found = order_under(model, self._solver_options(0.5), planned)
        peak = max(found.schedule.peak, peak_bytes(found.graph, found.schedule.order))
        if peak > found.stock_peak:
            raise AssertionError(f"{self.name}: peak {peak} is above stock's {found.stock_peak}")
        emitted = emissions(nodes)
        cut = cuts(found.graph, found.schedule.order, emitted, found.schedule.peak)
        emitted_peak = grouped_peak(found.graph, found.schedule.order, emitted, cut)
        report = self._report(found, nodes, emitted_peak)
        # Behind all that may fail: a fallback emits the groups that stock would.
        cut_groups(V.graph.scheduler, [nodes[op].get_name() for op in cut])
        self.sink(report)
        return [nodes[op] for op in found.schedule.order]

    def _planned_order(self, graph: Graph, nodes: Sequence[BaseSchedulerNode]) -> tuple[int, ...]:
        """The fused nodes in the order that the planner has for them, as far as `graph`, which says more, allows it."""
        assert self.planner is not None
        for node in nodes:
            self.planner.fuse(self._ops(node))
        position = {op: at for at, ops in enumerate(self.planner.order()) for op in ops}
        return priority_order(graph, [max(map(position.__getitem__, self._ops(node)), default=0) for node in nodes])

    def _ops(self, node: BaseSchedulerNode) -> list[int]:
        return sorted({self._op_of_name[name] for name in node.get_operation_names() if name in self._op_of_name})

    def _solver_options(self, share: float, method: str = "auto") -> Options:
        """A share of the time limit as units of work; the clock itself only stops a machine that is far slower."""
        limits = Options(self.options.time_limit_s, seed=self.options.seed, use_ilp=False, method=method)
        return repeatable(limits, share)

    def _guarded(self, doing: str, run: Callable[[], T]) -> T | None:
        """The result of `run`; None after a failure, which is told once and never breaks the compile."""
        self._began = time.thread_time()
        try:
            return run()
        except Exception as error:
            if self.options.strict:
                raise
            self.fallback = f"{doing}: {reason_of(error)}"
            leave_to_stock(self.name, doing, self.fallback)
            return None
        finally:
            self.seconds += time.thread_time() - self._began

    def _report(self, found: ModelledOrder, nodes: Sequence[BaseSchedulerNode], emitted_peak: int) -> GraphReport:
        graph, schedule = found.graph, found.schedule
        planner, refusals = self.planner, self._refusals()
        ranged = tuple(ranged_buffers(nodes))
        if ranged and schedule.status is Status.OPTIMAL:
            schedule = replace(schedule, status=Status.BOUNDED)
        return GraphReport.planned(
            graph,
            schedule,
            name=self.name,
            kind=self.kind,
            ops=len(nodes),
            stock_peak=found.stock_peak,
            seconds=self.seconds + time.thread_time() - self._began,
            kernels=num_kernels(nodes),
            emitted_peak=emitted_peak,
            prefusion_peak=planner.budget if planner else None,
            fusions_asked=planner.questions if planner else 0,
            fusions_refused=len(refusals),
            refusals=refusals,
            fusions=self._fusions(),
            flops=flops_of(V.graph.module),
            ranged=ranged,
            rewrites=rewrites_of(V.graph.module.graph),
            note="; ".join(filter(None, (schedule.note, *self._notes(), _range_words(ranged)))),
            origins=origins_of(graph),
        )

    def _notes(self) -> Iterator[str]:
        """What the user should know about the fusions beside the figures."""
        yield self._fusion_note
        if self.planner is not None and self.planner.exhausted:
            yield "the fusions were judged until their work limit, then accepted"
        if config.combo_kernels:
            yield "combo kernels are on: Inductor forms them after this plan"

    def _refusals(self) -> tuple[RefusedFusion, ...]:
        """The refusals that stand at the end, by the names of the ops."""
        if self.planner is None:
            return ()
        refused = self.planner.standing_refusals()
        return tuple(
            RefusedFusion(self._names(r.ops), self._names(r.other), r.price, r.traffic, r.vertical) for r in refused
        )

    def _fusions(self) -> tuple[MadeFusion, ...]:
        """The fusions that were made, by the names of the ops."""
        made = self.planner.made if self.planner else ()
        return tuple(MadeFusion(self._names(m.ops), self._names(m.other), m.traffic, m.peak_change) for m in made)

    def _names(self, ops: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._name_of_op[op] for op in ops)

    def _report_fallback(self, nodes: Sequence[BaseSchedulerNode]) -> None:
        kernels = num_kernels(nodes)
        self.sink(GraphReport.left_to_stock(self.name, self.kind, len(nodes), kernels, self.seconds, self.fallback))


def _range_words(ranged: Sequence[str]) -> str:
    """What the user should know of sizes that depend on data."""
    if not ranged:
        return ""
    some = ", ".join(ranged[:3]) + (f" and {len(ranged) - 3} more" if len(ranged) > 3 else "")
    return f"sizes that depend on data count at the upper end of their range: {some}"

"""Planning one compiled graph, from the nodes before fusion to the order after it.

    nodes before fusion ──> graph ──> plan: a low order, its peak is the budget          (memsched.inductor.fusing)
                                        │
    Inductor asks: may these two fuse? ─┤  contracted plan within the budget?
                                        ▼
    nodes after fusion ───> graph ──> solve from the plan's order and Inductor's four    (memsched.inductor.ordered)
                                        │
    where anything was refused: fused once more as stock would; the better of the two    (memsched.inductor.fused_twice)

A session belongs to one scheduler.  Whatever fails inside it is a `fallback`: stock's behavior from there on, one
warning, a counter; with `strict` it raises.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from torch._inductor import config
from torch._inductor.virtualized import V

from memsched.core.graph import Graph
from memsched.core.result import Options, Status
from memsched.inductor.asked_once import AskedOnce
from memsched.inductor.candidates import Candidates
from memsched.inductor.extract import extract_graph, ranged_buffers
from memsched.inductor.failures import leave_to_stock, reason_of
from memsched.inductor.flops import flops_of
from memsched.inductor.fused_twice import FusionState, can_fuse_twice, fuse_as_stock
from memsched.inductor.fusing import FusionPlan
from memsched.inductor.host import graph_kind, graph_name, num_kernels, num_streams, stock_reorder
from memsched.inductor.options import NEGLIGIBLE, BackendOptions
from memsched.inductor.order_only import forget_order_only_readers
from memsched.inductor.ordered import NodesToOrder, OrderedNodes
from memsched.inductor.origins import origins_of
from memsched.inductor.overlap import moved_within, overlap_passes
from memsched.inductor.publish import Sink
from memsched.inductor.rewrites.offload import moved_bytes_of
from memsched.inductor.rewrites.rules import rewrites_of
from memsched.inductor.storages.emissions import cut_groups
from memsched.records.report import GraphKind, GraphReport
from memsched.search.budget import repeatable
from memsched.series_parallel.answer import series_parallel_answer

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["PlanningSession", "begin_session", "session_of"]


T = TypeVar("T")

_SESSION = "memsched_session"
"""Where a scheduler has its session: the two refer to each other, and go together when the compile is over."""


_HOPELESS = 1.02
"""Where stock's fusions need this many times the plan's peak after one search, the next ones are not made: of a tower
of 12 layers (4.6% above after the first) they cost half a second and ended 3.3% above."""


def session_of(scheduler: Scheduler) -> PlanningSession | None:
    """The session that plans for `scheduler`, if the pre-fusion pass has begun one."""
    return getattr(scheduler, _SESSION, None)


def begin_session(options: BackendOptions, sink: Sink) -> PlanningSession | None:
    """A session for the scheduler of `V.graph`; None after a failure, which leaves the graph to stock."""
    try:
        return PlanningSession(options, sink)
    except Exception as error:
        if options.strict:
            raise
        leave_to_stock("a graph", "beginning to plan", reason_of(error))
        return None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Within the context Python looks for no cycles of garbage; what planning leaves of them is collected later.

    The compiler's heap is large: a full collection takes half a second at twelve layers, and planning alone would
    trigger three or four.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


class SeveralStreams(RuntimeError):
    """A graph whose ops the user put on several streams: they run beside each other, and wait where he says."""


class PlanningSession:
    """The plan of one scheduler; methods are called by the passes and by the fusion choices, in that order.

    until_fused: what holds between the two passes.
    """

    def __init__(self, options: BackendOptions, sink: Sink) -> None:
        self.options = options
        self.sink = sink
        self.until_fused = contextlib.ExitStack()
        self._candidates = Candidates()
        self.kind = graph_kind()
        self.name = graph_name()
        self.fallback = ""
        self.seconds = 0.0
        self._began = 0.0
        self.prefusion: Graph | None = None
        self.fusing: FusionPlan | None = None
        self._budget: int | None = None
        self._nodes: list[BaseSchedulerNode] = []
        self._unfused: FusionState | None = None
        self._fused: FusionState | None = None
        setattr(V.graph.scheduler, _SESSION, self)

    def before_fusion(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        """Plan an order of the nodes before fusion, and prepare the fusion planner with its peak as budget."""
        if nodes:
            self._guarded("planning before fusion", lambda: self._plan(nodes))
        return nodes

    def may_fuse(self, first: BaseSchedulerNode, second: BaseSchedulerNode, shared: int = 0) -> bool:
        """Whether the plan has room for this fusion; True whenever there is no plan, and of what is only collected.

        shared: bytes that both nodes touch, as Inductor counts them (`Scheduler.score_fusion_memory`).
        """
        fusing = self.fusing
        if fusing is None or self.fallback:
            return True

        def judge() -> bool:
            return self._candidates.will_be_asked_again(first) or fusing.may_fuse(first, second, shared)

        answer = self._guarded("judging a fusion", judge)
        return True if answer is None else answer

    def after_fusion(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        """The nodes in the best order found; in stock's order when anything failed.

        A graph without nodes (only views of inputs) is neither planned nor reported.
        """
        if not nodes:
            return nodes
        ordered = None if self.fallback else self._guarded("ordering after fusion", lambda: self._order(nodes))
        if ordered is None:
            if self._fused is not None:
                self._fused.restore()  # the scheduler may know the nodes that were fused in their place
            ordered = stock_reorder(nodes)
            self._guarded("reporting a fallback", lambda: self._report_fallback(nodes))
        return ordered

    def _plan(self, nodes: Sequence[BaseSchedulerNode]) -> None:
        scheduler = V.graph.scheduler
        if (streams := num_streams()) > 1:
            raise SeveralStreams(f"its ops run on {streams} streams: what is alive together is no order's peak")
        AskedOnce.begin(scheduler)
        self.prefusion = extract_graph(nodes, self.name, "prefusion")
        if self.options.fusion == "stock":
            return
        self.fusing = FusionPlan(self.prefusion, nodes, scheduler, self.options, self._solver_options)
        self._budget = self.fusing.planner.budget
        self.until_fused.enter_context(self._candidates.of(scheduler))
        if can_fuse_twice(nodes):
            self._nodes = list(nodes)
            self._unfused = FusionState(scheduler, nodes)

    def _order(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        forget_order_only_readers(nodes)
        given = self.fusing.order_of if self.fusing else None
        fused = NodesToOrder.of(nodes, self.name, measure_scratch=self.options.measure_scratch)
        chosen, stock_peak = fused.in_best_order(self._solver_options(0.5), given), fused.stock_peak
        if self.fusing is not None and self.fusing.refused and self._unfused is not None:
            chosen, stock_peak = self._or_as_stock(chosen, self._unfused)
        chosen = chosen.bounded(self._solver_options(0.5))
        if overlap_passes():
            # Stock has no training step in one graph whose bytes one would allow.
            chosen = moved_within(0 if self.kind is GraphKind.STEP else stock_peak, chosen)
        report = self._report(chosen, stock_peak)
        # Behind all that may fail: a fallback emits the groups that stock would.
        cut_groups(V.graph.scheduler, [chosen.nodes[op].get_name() for op in chosen.cut])
        self.sink(report)
        return chosen.in_order()

    def _or_as_stock(self, planned: OrderedNodes, unfused: FusionState) -> tuple[OrderedNodes, int]:
        """`planned`, or what stock's fusions give in our order, if that is better; and what stock itself needs."""
        scheduler = V.graph.scheduler
        self._fused = FusionState(scheduler, planned.nodes)
        unfused.restore()
        nodes = fuse_as_stock(scheduler, self._nodes)
        forget_order_only_readers(nodes)
        fused = NodesToOrder.of(nodes, self.name, measure_scratch=self.options.measure_scratch)
        free = planned.emitted_peak * (1 + NEGLIGIBLE)
        if self.fusing is not None and self.options.fusion == "budget":
            free = max(free, self.fusing.planner.budget)
        # Below what is free, fewer kernels count; planned fusions are only free where stock needs no less.
        free = free if planned.emitted_peak <= fused.stock_peak else 0
        wanted = max(planned.emitted_peak, int(free))
        if not fused.need_more_than(wanted):
            # Where stock itself needs less, everything is tried to get there.
            hopeless = int(wanted * _HOPELESS) if wanted <= fused.stock_peak else None
            as_stock = fused.in_best_order(self._solver_options(0.25), planned.order_of, hopeless)
            if as_stock.is_as_good_as(planned, free):
                self.fusing = None
                return as_stock, fused.stock_peak
        self._fused.restore()
        return planned, fused.stock_peak

    def _solver_options(self, share: float, method: str = "auto") -> Options:
        """A share of the time limit as units of work; the clock itself only stops a machine that is far slower."""
        limits = Options(self.options.time_limit_s, seed=self.options.seed, use_ilp=False, method=method)
        return repeatable(limits, share)

    def _guarded(self, doing: str, run: Callable[[], T]) -> T | None:
        """The result of `run`; None after a failure, which is told once and never breaks the compile."""
        self._began = time.thread_time()
        try:
            with _no_collection():
                return run()
        except Exception as error:
            if self.options.strict:
                raise
            self.fallback = f"{doing}: {reason_of(error)}"
            leave_to_stock(self.name, doing, self.fallback)
            return None
        finally:
            self.seconds += time.thread_time() - self._began

    def _report(self, chosen: OrderedNodes, stock_peak: int) -> GraphReport:
        graph, schedule, nodes = chosen.found.graph, chosen.found.schedule, chosen.nodes
        fusing = self.fusing
        refusals = fusing.refusals() if fusing else ()
        ranged = tuple(ranged_buffers(nodes))
        if ranged and schedule.status is Status.OPTIMAL:
            schedule = replace(schedule, status=Status.BOUNDED)
        return GraphReport.planned(
            graph,
            schedule,
            name=self.name,
            kind=self.kind,
            ops=len(nodes),
            stock_peak=stock_peak,
            orders_peak=chosen.found.orders_peak,
            seconds=self.seconds + time.thread_time() - self._began,
            kernels=num_kernels(nodes),
            emitted_peak=chosen.emitted_peak,
            prefusion_peak=self._budget,
            fusions_asked=fusing.planner.questions if fusing else 0,
            fusions_refused=len(refusals),
            refusals=refusals,
            fusions=fusing.fusions() if fusing else (),
            flops=flops_of(V.graph.module),
            moved=moved_bytes_of(V.graph.module),
            series_parallel=series_parallel_answer(graph),
            ranged=ranged,
            rewrites=rewrites_of(V.graph.module.graph),
            note="; ".join(filter(None, (schedule.note, *self._notes(), _range_words(ranged)))),
            origins=origins_of(graph),
        )

    def _notes(self) -> Iterator[str]:
        """What the user should know beside the figures."""
        if self.fusing is not None:
            yield from self.fusing.notes()
        if config.combo_kernels:
            yield "combo kernels are on: Inductor forms them after this plan"

    def _report_fallback(self, nodes: Sequence[BaseSchedulerNode]) -> None:
        kernels = num_kernels(nodes)
        self.sink(GraphReport.left_to_stock(self.name, self.kind, len(nodes), kernels, self.seconds, self.fallback))


def _range_words(ranged: Sequence[str]) -> str:
    """What the user should know of sizes that depend on data."""
    if not ranged:
        return ""
    some = ", ".join(ranged[:3]) + (f" and {len(ranged) - 3} more" if len(ranged) > 3 else "")
    return f"sizes that depend on data count at the upper end of their range: {some}"

"""The memory of a training step as a whole: what is resident, what comes and goes, and when gradients are alive.

    resident      parameters, optimizer state: the caller's, there before and after, no order changes them
    transient     activations ─┐
                  gradients   ─┴─> the peak above resident, its bound and its gap (the plan of the step's one graph)

`StepReport.moments` says what is alive in the forward, at the loss, in the backward and at its end.  A *gradient* here
is a buffer that an update reads: from its birth to its update it is memory that an optimizer after the backward would
hold for all parameters at once.  What that would have cost is asked of the same graph before fusion:
the best order in which every update waits for the end of the backward, beside the best order without that rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch._inductor.virtualized import V

from memsched.core.graph import Graph
from memsched.core.peak import memory_profile
from memsched.core.result import Options
from memsched.core.sizes import format_bytes
from memsched.inductor.host import graph_kind
from memsched.inductor.options import BackendOptions
from memsched.inductor.passes import PostFusionPass, PreFusionPass
from memsched.inductor.publish import Sink
from memsched.inductor.session import session_of
from memsched.levers.moments import Moment
from memsched.levers.step_moments import StepMoment, moments_of_step, peak_moment
from memsched.records.report import GraphKind, GraphReport
from memsched.search.budget import repeatable
from memsched.search.solver import solve

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["NotingPostFusionPass", "NotingPreFusionPass", "StepNotes", "StepReport", "make_report"]


@dataclass
class StepNotes:
    """What the passes see of one compile.

    update_nodes: the FX nodes of the updates, by name, given; the rest is noted: the graph before fusion, and the ops
    that belong to updates before and after fusion, and to the backward after it.
    """

    update_nodes: frozenset[str]
    prefusion: Graph | None = None
    prefusion_updates: frozenset[str] = frozenset()
    updates: frozenset[str] = frozenset()
    backward: frozenset[str] = frozenset()

    def updates_among(self, nodes: Sequence[BaseSchedulerNode]) -> frozenset[str]:
        """The scheduler nodes that compute or write what an update computes, by name."""
        return frozenset(node.get_name() for node in nodes if self._is_update(node))

    def backward_among(self, nodes: Sequence[BaseSchedulerNode]) -> frozenset[str]:
        """The scheduler nodes that compute something of the backward and no update, by name."""
        return frozenset(
            node.get_name()
            for node in nodes
            if not self._is_update(node) and any(_is_of_backward(origin) for origin in _origins(node))
        )

    def _is_update(self, node: BaseSchedulerNode) -> bool:
        return any(origin.name in self.update_nodes for origin in _origins(node))


def _origins(node: BaseSchedulerNode) -> Iterator[Any]:
    """The FX nodes that a scheduler node computes."""
    for part in node.get_nodes():
        yield from getattr(part.node, "origins", None) or ()


def _is_of_backward(origin: Any) -> bool:
    """Whether autograd made the FX node (torch/_functorch/_aot_autograd/graph_capture_wrappers.py sets the tag)."""
    return bool(origin.meta.get("partitioner_tag") == "is_backward")


class NotingPreFusionPass(PreFusionPass):
    """The pass of every plan, which also keeps the graph before fusion."""

    def __init__(self, options: BackendOptions, notes: StepNotes, sink: Sink) -> None:
        super().__init__(options, sink)
        self.notes = notes

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        nodes = super().__call__(nodes)
        if graph_kind() is not GraphKind.STEP:
            return nodes
        session = session_of(V.graph.scheduler)
        self.notes.prefusion = session.prefusion if session is not None else None
        self.notes.prefusion_updates = self.notes.updates_among(nodes)
        return nodes


class NotingPostFusionPass(PostFusionPass):
    """The pass of every plan, which also notes which kernels are updates."""

    def __init__(self, options: BackendOptions, notes: StepNotes) -> None:
        super().__init__(options)
        self.notes = notes

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        nodes = super().__call__(nodes)
        if graph_kind() is GraphKind.STEP:
            self.notes.updates = self.notes.updates_among(nodes)
            self.notes.backward = self.notes.backward_among(nodes)
        return nodes


@dataclass(frozen=True)
class StepReport:
    """One compiled step.  Bytes of the memory model of `memsched.core.peak`; peaks are above what is resident.

    plan: the plan of the step's graph; its kind is "step".
    parameter_bytes, state_bytes: resident.
    gradient_bytes: all gradients together, as a backward without updates would return them.
    live_bytes: while each op of the plan's order runs; live_gradient_bytes: the gradients in it, those that are a
        buffer (a gradient that is fused into its update never is one).
    updates: for each op of the order, whether it is an update.
    moments: what is alive in the forward, at the loss, in the backward and at its end, each where it is highest.
    notes, options: of the compile, from which what is asked later is computed.
    buckets: bytes of gradients in each call that averages them over processes, in the order of the calls.
    """

    plan: GraphReport
    parameter_bytes: int
    state_bytes: int
    gradient_bytes: int
    live_bytes: tuple[int, ...] = field(repr=False)
    live_gradient_bytes: tuple[int, ...] = field(repr=False)
    updates: tuple[bool, ...] = field(repr=False)
    moments: tuple[StepMoment, ...] = field(repr=False)
    notes: StepNotes = field(repr=False)
    options: BackendOptions = field(repr=False)
    buckets: tuple[int, ...] = ()

    @property
    def prefusion_peak(self) -> int | None:
        """The peak of the plan before fusion; None where fusion was left to stock."""
        return self.plan.prefusion_peak

    @cached_property
    def update_after_backward_peak(self) -> int | None:
        """The peak of the best order found of the ops before fusion when every update waits for the backward's end."""
        if self.notes.prefusion is None:
            return None
        return _peak_with_updates_last(self.notes.prefusion, self.notes.prefusion_updates, self.options)

    @property
    def peak_moment(self) -> Moment:
        """The moment in which the step peaks; UNKNOWN where PyTorch does not say which ops are of the backward."""
        return peak_moment(self.moments)

    @property
    def peak_gradient_bytes(self) -> int:
        """The most bytes of gradients that are alive at once."""
        return max(self.live_gradient_bytes, default=0)

    def to_json(self) -> dict[str, Any]:
        """The figures, without the curves."""
        names = ("parameter_bytes", "state_bytes", "gradient_bytes", "peak_gradient_bytes", "prefusion_peak")
        figures = {name: getattr(self, name) for name in (*names, "update_after_backward_peak")}
        moments = [asdict(moment) | {"transients": moment.transients} for moment in self.moments]
        return {"plan": self.plan.to_json(), **figures, "buckets": list(self.buckets), "moments": moments}

    def __str__(self) -> str:
        plan, size = self.plan, format_bytes
        lines = [
            f"training step: {plan.ops} kernels, {sum(self.updates)} of them updates",
            f"  resident    parameters {size(self.parameter_bytes)}, optimizer state {size(self.state_bytes)}",
            f"  peak above  {size(plan.peak)} (bound {size(plan.lower_bound)}, gap {plan.gap:.1%}, {plan.status})",
            f"  gradients   {size(self.gradient_bytes)} in all, at most {size(self.peak_gradient_bytes)} alive at once",
        ]
        if self.update_after_backward_peak is not None and self.prefusion_peak is not None:
            lines.append(
                f"  before fusion {size(self.prefusion_peak)}; "
                f"with all updates after the backward {size(self.update_after_backward_peak)}"
            )
        if self.buckets:
            calls = "call" if len(self.buckets) == 1 else "calls"
            lines.append(f"  averaged    in {len(self.buckets)} {calls}, at most {size(max(self.buckets))} in one")
        return "\n".join([*lines, *self._table_of_moments()])

    def _table_of_moments(self) -> Iterator[str]:
        """A line for each moment, with the tensors that are largest there and their lines."""
        if self.moments:
            yield f"  {'':20} {'alive':>12} {'saved':>12} {'gradients':>12} {'transient':>12}"
        for moment in self.moments:
            sizes = (moment.alive, moment.saved, moment.gradients, moment.transients)
            yield (
                f"  {moment.moment:20} "
                + " ".join(f"{format_bytes(size):>12}" for size in sizes)
                + "  "
                + self._words(moment)
            )

    def _words(self, moment: StepMoment) -> str:
        """Where the largest tensor of a moment comes from."""
        origin = self.plan.origins.get(moment.largest[0]) if moment.largest else None
        return "" if origin is None else " ".join(filter(None, (origin.module, origin.operator)))


def make_report(plan: GraphReport, notes: StepNotes, sizes: Mapping[str, Any], options: BackendOptions) -> StepReport:
    """The report of a step whose graph was planned as `plan`; `sizes` are its totals of bytes and its buckets."""
    assert plan.graph is not None and plan.schedule is not None
    graph, order = plan.graph, plan.schedule.order
    is_update = [op.name in notes.updates for op in graph.ops]
    gradients = _gradients(graph, is_update)
    return StepReport(
        plan=plan,
        live_bytes=memory_profile(graph, order).step_peaks,
        live_gradient_bytes=memory_profile(_only(graph, gradients), order).step_peaks,
        updates=tuple(is_update[op] for op in order),
        moments=moments_of_step(graph, order, notes.backward, gradients),
        notes=notes,
        options=options,
        **sizes,
    )


def _gradients(graph: Graph, is_update: Sequence[bool]) -> set[str]:
    """The buffers that are computed by the backward and that only updates read."""
    return {
        buffer.name
        for buffer in graph.buffers
        if buffer.producer is not None
        and not is_update[buffer.producer]
        and buffer.consumers
        and all(is_update[reader] for reader in buffer.consumers)
    }


def _only(graph: Graph, names: set[str]) -> Graph:
    """`graph` with these buffers only, in the same precedence of ops."""
    edges = {(b.producer, reader) for b in graph.buffers if b.producer is not None for reader in b.consumers}
    buffers = tuple(buffer for buffer in graph.buffers if buffer.name in names)
    return Graph(graph.name, graph.ops, buffers, tuple(sorted(edges | set(graph.order_edges))))


def _peak_with_updates_last(graph: Graph, updates: frozenset[str], options: BackendOptions) -> int:
    """The peak of the best order found of `graph` in which no update runs before all else has run."""
    last = {at for at, op in enumerate(graph.ops) if op.name in updates}
    final = [at for at in range(len(graph)) if at not in last and not (set(graph.successors[at]) - last)]
    edges = {*graph.order_edges, *((before, update) for before in final for update in last)}
    waiting = Graph(graph.name, graph.ops, graph.buffers, tuple(sorted(edges)), graph.torch, graph.device, graph.stage)
    limits = repeatable(Options(options.time_limit_s, seed=options.seed, use_ilp=False), share=0.5)
    return solve(waiting, limits).peak

"""What memsched says about one compiled graph.

print(report)     backward 0: 178 ops, peak 26.07 MiB (stock 35.04 MiB), bound 26.07 MiB, gap 0.0%, ...
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from memsched.core.graph import Graph
from memsched.core.result import Schedule, Status
from memsched.core.sizes import format_bytes
from memsched.records.fusion import MadeFusion, RefusedFusion
from memsched.records.origin import Origin

__all__ = ["GraphKind", "GraphReport", "SeriesParallel"]


class GraphKind(enum.StrEnum):
    """What a graph computes: a half of a training step, an inference, a whole step, what one op of such a graph calls;
    GRAPH for one out of a file."""

    FORWARD = "forward"
    BACKWARD = "backward"
    INFERENCE = "inference"
    STEP = "step"
    SUBGRAPH = "subgraph"
    GRAPH = "graph"


@dataclass(frozen=True, slots=True)
class SeriesParallel:
    """Whether the precedences of a graph are series-parallel, and why not.

    depth: compositions on the longest way down the decomposition tree, or None.
    witness: else the names of four ops a, b, c, d with a before c and d, b before d, and nothing else between them: the
        N that no series-parallel order holds (Valdes, Tarjan, Lawler 1982).
    """

    depth: int | None
    witness: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.depth is not None:
            return f"series-parallel, {self.depth} compositions deep"
        a, b, c, d = self.witness
        return f"not series-parallel: {a} before {c} and {d}, {b} before {d}, and nothing else"


_OF_SCHEDULE = ("peak", "lower_bound", "gap", "status", "method", "seconds")


@dataclass(frozen=True)
class GraphReport:
    """One compiled graph; bytes are of the memory model of `memsched.core.peak`, seconds are of the planner.

    name, kind: "backward 0" and so on.
    ops: scheduler nodes after fusion.
    stock_peak: what stock needs for the same traced graph: its own fusions, its own order, its own groups.
    orders_peak: least peak of Inductor's own four orders on the chosen nodes, where it was asked.
    emitted_peak: peak of the generated wrapper: with the groups of C++ kernels, which free late, as they were cut.
    prefusion_peak: peak of the plan before fusion, the budget that fusions had to keep.
    lower_bound, gap, status, method: of the order that was chosen, as in `Schedule`.
    kernels: nodes that launch something; stock_kernels: what stock would have launched, where it is known.
    fusions_asked, fusions_refused: candidates of Inductor that the planner judged, and refused for good.
    flops: of its products, convolutions and attention (`memsched/inductor/flops.py`); 0 where nobody counted.
    moved: bytes that it copies between a GPU and the host.
    ranged: buffers whose sizes depend on data: they count at the upper end of their range, and nothing is optimal.
    rewrites: how many nodes of the traced graph each rule changed (`memsched/inductor/rewrites/rules.py`).
    series_parallel: whether the polynomial algorithm covers the graph after fusion, with tree depth or witness.
    refusals: those fusions, dearest first; fusions: those that were made, in that order.
    origins: what is known about each buffer, by name.
    fallback: why this graph was left to stock, or "".
    cached: the graph came out of Inductor's cache: planned by another process, or before; its graph, order, origins and
        refusals are not known here.
    """

    name: str
    kind: GraphKind
    ops: int
    stock_peak: int
    peak: int
    lower_bound: int
    gap: float
    status: Status
    method: str
    seconds: float
    kernels: int
    stock_kernels: int | None = None
    orders_peak: int | None = None
    emitted_peak: int | None = None
    prefusion_peak: int | None = None
    fusions_asked: int = 0
    fusions_refused: int = 0
    fallback: str = ""
    note: str = ""
    cached: bool = False
    flops: int = 0
    moved: int = 0
    ranged: tuple[str, ...] = ()
    rewrites: Mapping[str, int] = field(default_factory=dict)
    series_parallel: SeriesParallel | None = None
    refusals: tuple[RefusedFusion, ...] = field(default=(), repr=False)
    fusions: tuple[MadeFusion, ...] = field(default=(), repr=False)
    origins: Mapping[str, Origin] = field(default_factory=dict, repr=False, compare=False)
    graph: Graph | None = field(default=None, repr=False, compare=False)
    schedule: Schedule | None = field(default=None, repr=False, compare=False)

    @property
    def generated_peak(self) -> int:
        """Bytes of what code generation makes of the plan: `emitted_peak` where that is known, else `peak`."""
        return self.emitted_peak or self.peak

    @classmethod
    def planned(cls, graph: Graph, schedule: Schedule, **more: Any) -> GraphReport:
        """The report of `schedule`, an order of `graph`; more: the other fields."""
        fields: dict[str, Any] = {name: getattr(schedule, name) for name in _OF_SCHEDULE}
        fields |= {"ops": len(graph), "graph": graph, "schedule": schedule}
        return cls(**(fields | more))

    @classmethod
    def left_to_stock(cls, name: str, kind: GraphKind, ops: int, kernels: int, seconds: float, why: str) -> GraphReport:
        """The report of a graph that stock Inductor ordered, because of `why`; nothing is known of its bytes."""
        unknown: dict[str, Any] = {"stock_peak": 0, "peak": 0, "lower_bound": 0, "gap": 0.0}
        how: dict[str, Any] = {"status": Status.STOCK, "method": "stock", "fallback": why}
        return cls(name=name, kind=kind, ops=ops, kernels=kernels, seconds=seconds, **unknown, **how)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values, without the graph, the schedule, the origins and the fusions made."""
        left_out = ("graph", "schedule", "origins", "fusions")
        plain = {key: value for key, value in vars(self).items() if key not in left_out}
        shape = None if self.series_parallel is None else asdict(self.series_parallel)
        return plain | {"series_parallel": shape, "refusals": [asdict(refusal) for refusal in self.refusals]}

    def __str__(self) -> str:
        if self.fallback:
            return f"{self.name}: {self.ops} ops, left to stock: {self.fallback}"
        return (
            f"{self.name}: {self.ops} ops, peak {format_bytes(self.peak)} (stock {format_bytes(self.stock_peak)}), "
            f"bound {format_bytes(self.lower_bound)}, gap {self.gap:.1%}, {self.status} by {self.method}, "
            f"{self.fusions_refused} fusions refused, "
            + ("planned before, from Inductor's cache" if self.cached else f"{self.seconds:.2f} s")
        )

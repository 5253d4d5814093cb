"""What memsched tells about one compiled graph, and the list of all that it has told in this process.

import torch, memsched
torch.compile(model, backend="memsched")(x).sum().backward()
for report in memsched.reports():
    print(report)                       # backward 0: 178 ops, peak 26.1 MiB (stock 35.0), bound 26.1, gap 0.0%
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from memsched.core.graph import Graph
from memsched.core.result import Schedule
from memsched.records.fusion import MadeFusion, RefusedFusion
from memsched.records.origin import Origin

__all__ = ["GraphReport", "add_report", "await_signature", "count", "counters", "reports", "reset", "restore_report"]


@dataclass(frozen=True)
class GraphReport:
    """One compiled graph; bytes are of the memory model of `memsched.core.peak`, seconds are of the planner.

    name, kind: "backward 0" and so on; kind is forward, backward, inference or step.
    ops: scheduler nodes after fusion.
    stock_peak: least peak of Inductor's own four orders on these same nodes.
    emitted_peak: peak of the generated wrapper: with the groups of C++ kernels, which free late, as they were cut.
    prefusion_peak: peak of the plan before fusion, the budget that fusions had to keep.
    lower_bound, gap, status, method: of the order that was chosen, as in `Schedule`.
    kernels: nodes that launch something; stock_kernels: what stock would have launched, where it is known.
    fusions_asked, fusions_refused: candidates of Inductor that the planner judged, and refused for good.
    refusals: those fusions, dearest first; fusions: those that were made, in that order.
    origins: what is known about each buffer, by name.
    fallback: why this graph was left to stock, or "".
    cached: the graph came out of Inductor's cache: planned by another process, or before; its graph, order, origins and
        refusals are not known here.
    """

    name: str
    kind: str
    ops: int
    stock_peak: int
    peak: int
    lower_bound: int
    gap: float
    status: str
    method: str
    seconds: float
    kernels: int
    stock_kernels: int | None = None
    emitted_peak: int | None = None
    prefusion_peak: int | None = None
    fusions_asked: int = 0
    fusions_refused: int = 0
    fallback: str = ""
    note: str = ""
    cached: bool = False
    refusals: tuple[RefusedFusion, ...] = field(default=(), repr=False)
    fusions: tuple[MadeFusion, ...] = field(default=(), repr=False)
    origins: Mapping[str, Origin] = field(default_factory=dict, repr=False, compare=False)
    graph: Graph | None = field(default=None, repr=False, compare=False)
    schedule: Schedule | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values, without the graph, the schedule, the origins and the fusions made."""
        left_out = ("graph", "schedule", "origins", "fusions")
        plain = {key: value for key, value in vars(self).items() if key not in left_out}
        return plain | {"refusals": [asdict(refusal) for refusal in self.refusals]}

    def __str__(self) -> str:
        if self.fallback:
            return f"{self.name}: {self.ops} ops, left to stock: {self.fallback}"
        mib = 2**20
        return (
            f"{self.name}: {self.ops} ops, peak {self.peak / mib:.2f} MiB "
            f"(the best of stock's orders {self.stock_peak / mib:.2f}), "
            f"bound {self.lower_bound / mib:.2f}, gap {self.gap:.1%}, {self.status} by {self.method}, "
            f"{self.fusions_refused} fusions refused, "
            + ("planned before, from Inductor's cache" if self.cached else f"{self.seconds:.2f} s")
        )


counters: dict[str, int] = {}
"""How often each kind of fallback happened in this process, by its cause."""

_reports: list[GraphReport] = []

_awaited: set[str] = set()
"""Signatures of modules that this process has planned and not yet loaded."""


def count(cause: str) -> None:
    """One more fallback by this cause."""
    counters[cause] = counters.get(cause, 0) + 1


def add_report(report: GraphReport) -> None:
    """Append to the list that `reports` returns."""
    _reports.append(report)


def reports() -> list[GraphReport]:
    """One report per compiled graph since the start or the last `reset`, newest last."""
    return list(_reports)


def await_signature(text: str) -> None:
    """Expect `restore_report(text)` from a module that this process planned, and whose report it has."""
    _awaited.add(text)


def restore_report(text: str) -> None:
    """What a generated module calls when it is loaded; it adds the report, unless the module is planned right now.

    text: `GraphReport.to_json` as JSON, without what a cache does not keep.
    """
    if text in _awaited:
        _awaited.remove(text)
        return
    told = json.loads(text)
    known = {field.name for field in fields(GraphReport)} - {"refusals", "cached"}
    add_report(GraphReport(**{key: value for key, value in told.items() if key in known}, cached=True))


def reset() -> None:
    """Forget all reports and counters."""
    _reports.clear()
    counters.clear()

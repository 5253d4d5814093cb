"""The fusions of a graph as a list: what each brings (traffic, a kernel), what it costs (peak), and what was decided.

    accepted  op3 + op7        traffic 4.00 MiB   peak +0 bytes
    refused   op9 + op12       traffic 0.25 MiB   price 1.50 MiB        the bytes above the budget of the plan

Three sources: a graph before fusion with the same graph after it (which of *these* fusions would the planner keep?), a
graph alone (what would any two of its kernels bring and cost, one at a time?), and the report of a graph that was
planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memsched.core.graph import Graph
from memsched.core.result import Options
from memsched.core.sizes import format_bytes
from memsched.fusion.choose import choose_fusions
from memsched.fusion.contract import kernels_of
from memsched.fusion.groups import Groups
from memsched.fusion.score import FusionScore, candidate_pairs, score_candidates
from memsched.records.report import GraphReport
from memsched.render.text.words import clipped
from memsched.search.solver import solve

__all__ = ["FusionList", "FusionRow", "fusions_of_graph", "fusions_of_pair", "fusions_of_report"]

_COLUMNS = ("decision", "kernels", "traffic saved", "peak", "above the budget")


@dataclass(frozen=True, slots=True)
class FusionRow:
    """One fusion; `decision` is accepted, refused or possible.  Bytes as in `memsched.fusion.score.FusionScore`."""

    decision: str
    ops: tuple[str, ...]
    other: tuple[str, ...]
    traffic: int
    peak_change: int | None
    price: int

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of the columns."""
        names = f"{clipped('_'.join(self.ops), 40)} + {clipped('_'.join(self.other), 40)}"
        change = "" if self.peak_change is None else _signed(self.peak_change)
        return self.decision, names, format_bytes(self.traffic), change, format_bytes(self.price) if self.price else ""


@dataclass(frozen=True, slots=True)
class FusionList:
    """The fusions of one graph, dearest first; `budget` and `peak` are those of the plan, in bytes."""

    name: str
    ops: int
    budget: int
    peak: int
    rows: tuple[FusionRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format": "memsched-fusions/1", **asdict(self)}

    def summary(self) -> str:
        """One line: the plan, and what was decided."""
        counts = {d: sum(row.decision == d for row in self.rows) for d in ("accepted", "refused", "possible")}
        told = ", ".join(f"{count} {decision}" for decision, count in counts.items() if count) or "no fusions"
        peak, budget = format_bytes(self.peak), format_bytes(self.budget)
        return f"{self.name or '(no name)'}: {self.ops} ops before fusion, peak {peak}, budget {budget}; {told}"

    def table(self, limit: int | None = None) -> list[tuple[str, ...]]:
        """A header and the first `limit` rows as text."""
        return [_COLUMNS, *(row.cells() for row in self.rows[:limit])]


def fusions_of_pair(
    graph: Graph, fused: Graph, budget: int | None = None, options: Options | None = None
) -> FusionList:
    """Which fusions of `fused`, the same graph after stock's fusion, an order keeps within `budget`.

    budget: bytes; None for the peak of the order that is planned before fusion.
    Raises GraphError when the two are not the same graph.
    """
    wanted = kernels_of(graph, fused)
    plan = solve(graph, options)
    choice = choose_fusions(graph, wanted, plan.order, plan.peak if budget is None else budget)
    rows = [_row(graph, "refused", score) for score in choice.refused]
    made = sorted(choice.made, key=lambda score: (-score.peak_change, -score.traffic))
    rows += [_row(graph, "accepted", score) for score in made]
    return FusionList(graph.name, len(graph), plan.peak if budget is None else budget, choice.peak, tuple(rows))


def fusions_of_graph(graph: Graph, options: Options | None = None) -> FusionList:
    """What fusing any two kernels of `graph` that share a buffer would bring and cost, each alone."""
    plan = solve(graph, options)
    scores = score_candidates(Groups(graph, plan.order), candidate_pairs(graph))
    rows = tuple(_row(graph, "possible", score) for score in scores)
    return FusionList(graph.name, len(graph), plan.peak, plan.peak, rows)


def fusions_of_report(report: GraphReport) -> FusionList:
    """The fusions that Inductor proposed for a graph that was planned, accepted and refused."""
    rows = [FusionRow("refused", r.ops, r.other, r.traffic, None, r.price) for r in report.refusals]
    made = sorted(report.fusions, key=lambda fusion: (-fusion.peak_change, -fusion.traffic))
    rows += [FusionRow("accepted", f.ops, f.other, f.traffic, f.peak_change, 0) for f in made]
    ops = report.ops + len(report.fusions)
    return FusionList(report.name, ops, report.prefusion_peak or report.peak, report.peak, tuple(rows))


def _row(graph: Graph, decision: str, score: FusionScore) -> FusionRow:
    return FusionRow(
        decision, _names(graph, score.ops), _names(graph, score.other), score.traffic, score.peak_change, score.price
    )


def _names(graph: Graph, ops: Sequence[int]) -> tuple[str, ...]:
    return tuple(graph.ops[op].name for op in ops)


def _signed(count: int) -> str:
    return f"{'-' if count < 0 else '+'}{format_bytes(abs(count))}"

"""Which fusions may be made: those that keep a planned order below its peak.

Inductor fuses without looking at the peak, and most of the memory that it loses is lost there: a reduction that is
fused with the accumulation which waits for another pass keeps its large input alive until then; branches that are
fused side by side have all their inputs and outputs alive together.  The planner is asked about every fusion that
Inductor has found legal and profitable.  It keeps the ops in a planned order, contracted by the fusions made so far,
and refuses a fusion after which that order would need more than the *budget*, the peak of the plan.

    plan before fusion          a:4  b:4  c:1  …        budget 5
    fuse a and b                ab:8                    refused: 8 > 5, the price is 3 bytes
    fuse b and c                bc:4                    accepted: c's input never leaves the kernel

Everything else stays Inductor's choice.  Decisions are repeatable: they depend on the graph, the order, the budget and
the questions, never on time.  Beyond `work_limit` group visits every fusion is accepted, as stock would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.fusion.groups import FusionCycle, Groups

__all__ = ["FusionPlanner", "Refusal"]

_WORK_LIMIT = 2_000_000
"""Group visits of about 2 microseconds each, so a few seconds; a backward graph of 1,000 ops takes about 35,000."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A fusion that was refused: ops of the two groups, and the bytes by which it would have exceeded the budget."""

    ops: tuple[int, ...]
    other: tuple[int, ...]
    price: int


class FusionPlanner:
    """Answers `may_fuse` and is told by `fuse` which fusions were made.

    graph: the ops before fusion.
    order: the planned order of `graph`.
    budget: bytes that no fusion may exceed; None for the peak of `order`.
    work_limit: groups that may be visited before everything is accepted.
    """

    def __init__(
        self, graph: Graph, order: Sequence[int], budget: int | None = None, work_limit: int = _WORK_LIMIT
    ) -> None:
        self.groups = Groups(graph, order)
        self.budget = peak_bytes(graph, order) if budget is None else budget
        self.work_limit = work_limit
        self.questions = 0
        self.refusals: dict[tuple[int, int], Refusal] = {}
        self._answers: dict[tuple[int, int], bool] = {}
        self._answers_version = -1

    @property
    def exhausted(self) -> bool:
        """Whether the work limit is spent, and every further fusion is accepted."""
        return self.groups.visited > self.work_limit

    def may_fuse(self, ops: Iterable[int], other: Iterable[int]) -> bool:
        """Whether fusing two groups of ops keeps the planned order within the budget.

        Groups that were fused behind the planner's back are brought up to date first.
        """
        first, second = self.fuse(ops), self.fuse(other)
        self.questions += 1
        if first == second or self.exhausted:
            return True
        if self._answers_version != self.groups.version:
            self._answers.clear()
            self._answers_version = self.groups.version
        key = (min(first, second), max(first, second))
        if key not in self._answers:
            self._answers[key] = self._fits(*key)
        return self._answers[key]

    def fuse(self, ops: Iterable[int]) -> int:
        """Record that `ops` are one kernel now; returns its group.  Raises FusionCycle when that cannot be."""
        # Along the order: then no third group can lie between two that are fused, unless it is fused too.
        groups = sorted({self.groups.group_of[op] for op in ops}, key=self.groups.position)
        fused = groups[0]
        for group in groups[1:]:
            fused = self.groups.fuse(self.groups.placements(fused, group)[0])
        return fused

    def order(self) -> list[list[int]]:
        """The ops of every group, in the order that the plan has now."""
        return [sorted(self.groups.members[group]) for group in self.groups.order()]

    def standing_refusals(self) -> list[Refusal]:
        """The refusals of groups that are still apart, one for each pair of groups, dearest first."""
        pairs: dict[tuple[int, int], Refusal] = {}
        for refusal in self.refusals.values():
            first, second = (self.groups.group_of[side[0]] for side in (refusal.ops, refusal.other))
            if first != second:
                pairs[min(first, second), max(first, second)] = refusal
        return sorted(pairs.values(), key=lambda refusal: (-refusal.price, refusal.ops, refusal.other))

    def _fits(self, first: int, second: int) -> bool:
        try:
            best = self.groups.placements(first, second)[0]
        except FusionCycle:
            return False
        if best.peak <= max(self.budget, best.peak_before):
            self.refusals.pop((first, second), None)
            return True
        members = self.groups.members
        price = best.peak - self.budget
        self.refusals[first, second] = Refusal(tuple(members[first]), tuple(members[second]), price)
        return False

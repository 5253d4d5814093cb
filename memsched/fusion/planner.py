"""Which fusions may be made: those that keep a planned order below its peak.

Inductor fuses without looking at the peak, and most of the memory that it loses is lost there: a reduction that is
fused with the accumulation which waits for another pass keeps its large input alive until then; branches that are
fused side by side have all their inputs and outputs alive together.  The planner is asked about every fusion that
Inductor has found legal and profitable.  It keeps the ops in a planned order, contracted by the fusions made so far,
and refuses a fusion after which that order would need more than the *budget*, the peak of the plan.

    plan before fusion          a:4  b:4  c:1  …        budget 5
    fuse a and b                ab:8                    refused: 8 > 5, the price is 3 bytes
    fuse b and c                bc:4                    accepted: c's input never leaves the kernel

Order and fusion are chosen together: before a fusion is refused, the whole order is searched for one that has room for
it (`memsched.fusion.room`), and when the fusion is made, that order becomes the plan.  A refusal is no more than an
answer about the groups of that moment: asked again after another fusion, it is judged again.

Where fusions bring the peak down, the order is searched again for what binds now, and the budget falls with the peak
(`memsched.fusion.room`): else whatever was planned below the first peak would be lost to the fusions that follow.

Everything else stays Inductor's choice.  Decisions are repeatable: they depend on the graph, the order, the budget and
the questions, never on time.  Beyond `work_limit` group visits only fusions of near groups are judged, and beyond four
times as many none: the others are accepted, as stock would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.fusion.groups import FusionCycle, Groups, Placement
from memsched.fusion.in_place import InPlace
from memsched.fusion.room import lower_order, make_room
from memsched.fusion.score import FusionScore, score_placement
from memsched.search.budget import Budget

__all__ = ["FusionPlanner"]

_WORK_LIMIT = 2_000_000
"""Group visits of about 2 microseconds each, so a few seconds; a backward graph of 1,000 ops takes about 35,000."""
_NEAR = 64
"""Ops between two groups that are near."""
_ROOM_UNITS = 10_000
"""Units of work (of 50 microseconds) for all searches for room together."""
_ROOM_UNITS_PER_FUSION = 400
_LOWER_UNITS = 20_000
"""Units of work for all searches after the peak has fallen."""
_LOWER_UNITS_PER_FALL = 4_000
_LEAST_FUSIONS, _SEARCHES = 8, 20
"""After a fall it is searched again behind so many fusions, or behind one for every so many groups."""
_FALL = 0.05
"""Share of the peak by which it must fall to be worth one."""


@dataclass(frozen=True, slots=True)
class _Way:
    """How a fusion fits: in its window, or (`order`) with all groups in another order."""

    placement: Placement
    order: tuple[int, ...] | None
    shared: int


class FusionPlanner:
    """Answers `may_fuse` and is told by `fuse` which fusions were made.

    graph: the ops before fusion.
    order: the planned order of `graph`.
    budget: bytes that no fusion may exceed; None for the peak of `order`.
    work_limit: groups that may be visited before fusions of groups that are far from each other are accepted unseen;
        four times as many before everything is.
    room_units: units of work for searching an order that has room for a fusion; 0 keeps the plan's order.
    max_extra_kernels: kernels that refusals may cost.  One more, and the budget rises to the price of the cheapest
        refusal that stands, until all that stand cost no more than that.  None: the budget never rises.
    in_place: what may be written over what; by default nothing is.
    falls: whether the budget falls with the peak of the plan; it keeps its ratio to it.

    `made` are the fusions in the order in which they were made, judged at that moment; `refusals` the answers no.
    """

    def __init__(
        self,
        graph: Graph,
        order: Sequence[int],
        budget: int | None = None,
        work_limit: int = _WORK_LIMIT,
        room_units: int = _ROOM_UNITS,
        max_extra_kernels: int | None = None,
        in_place: InPlace | None = None,
        *,
        falls: bool = False,
    ) -> None:
        self.groups = Groups(graph, order, in_place)
        self._lowest = self.groups.peak()
        self.budget = self._lowest if budget is None else budget
        self._ratio = self.budget / max(1, self._lowest)
        self.work_limit = work_limit
        self.max_extra_kernels = max_extra_kernels
        self.questions = 0
        self.made: list[FusionScore] = []
        self.refusals: dict[tuple[int, int], FusionScore] = {}
        self._room = Budget(room_units)
        self._lower = Budget(_LOWER_UNITS if falls else 0)
        self._next_search = len(graph)
        self._searched: set[tuple[int, ...]] = set()
        self._ways: dict[tuple[int, int], _Way | None] = {}
        self._ways_version = -1

    def forbid_search(self) -> None:
        """Judge every fusion in the order that the plan has, from now on."""
        self._room.units = self._lower.units = 0

    @property
    def exhausted(self) -> bool:
        """Whether the work limit is spent, and not every further fusion is judged."""
        return self.groups.visited > self.work_limit

    def may_fuse(self, ops: Iterable[int], other: Iterable[int], shared: int = 0) -> bool:
        """Whether fusing two groups of ops keeps the planned order, or another one, within the budget.

        Groups that were fused behind the planner's back are brought up to date first.
        shared: bytes that both touch, where the caller knows of more than the graph does, such as parameters.
        """
        first, second = self.fuse(ops), self.fuse(other)
        self.questions += 1
        if first == second or (self.exhausted and not self._is_worth_a_look(first, second)):
            return True
        self._fall()
        key = (min(first, second), max(first, second))
        ways = self._ways_now()
        if key not in ways:
            ways[key] = self._way(*key, shared)
        return ways[key] is not None

    def _is_worth_a_look(self, first: int, second: int) -> bool:
        """Whether two groups are judged beyond the work limit: few groups lie between, and that costs little."""
        distance = abs(self.groups.position(first) - self.groups.position(second))
        return distance <= _NEAR and self.groups.visited <= 4 * self.work_limit

    def fuse(self, ops: Iterable[int]) -> int:
        """Record that `ops` are one kernel now; returns its group.  Raises FusionCycle when that cannot be."""
        # Along the order: then no third group can lie between two that are fused, unless it is fused too.
        groups = sorted({self.groups.group_of[op] for op in ops}, key=self.groups.position)
        fused = groups[0]
        for group in groups[1:]:
            way = self._ways_now().get((min(fused, group), max(fused, group)))
            placement = way.placement if way else self.groups.placements(fused, group)[0]
            self.made.append(score_placement(self.groups, placement, self.budget, way.shared if way else 0))
            fused = self.groups.fuse(placement)
            if way and way.order:
                self.groups.reorder(way.order)
        return fused

    def order(self) -> list[list[int]]:
        """The ops of every group, in the order that the plan has now."""
        return [sorted(self.groups.members[group]) for group in self.groups.order()]

    def standing_refusals(self) -> list[FusionScore]:
        """The refusals of groups that are still apart, one for each pair of groups, dearest first."""
        pairs: dict[tuple[int, int], FusionScore] = {}
        for refusal in self.refusals.values():
            first, second = (self.groups.group_of[side[0]] for side in (refusal.ops, refusal.other))
            if first != second:
                pairs[min(first, second), max(first, second)] = refusal
        return sorted(pairs.values(), key=lambda refusal: (-refusal.price, refusal.ops, refusal.other))

    def _ways_now(self) -> dict[tuple[int, int], _Way | None]:
        """The answers about the present groups in their present order."""
        if self._ways_version != self.groups.version:
            self._ways.clear()
            self._ways_version = self.groups.version
        return self._ways

    def _fall(self) -> None:
        """Where the peak has fallen, bring it further down, and the budget with it; again, after some more fusions.

        What binds now may be held up by groups that are fused only later.
        """
        if self._lower.exhausted or self._ways_version == self.groups.version:
            return
        peak = self.groups.peak()
        if peak <= self._lowest * (1 - _FALL) or len(self.made) >= self._next_search:
            lower_order(self.groups, int(peak * (1 - _FALL)), self._lower, _LOWER_UNITS_PER_FALL)
            self._lowest = self.groups.peak()
            self.budget = min(self.budget, int(self._lowest * self._ratio))
            self._next_search = len(self.made) + max(_LEAST_FUSIONS, len(self.groups.members) // _SEARCHES)

    def _way(self, first: int, second: int, shared: int) -> _Way | None:
        try:
            best = self.groups.placements(first, second)[0]
        except FusionCycle:
            return None
        order: tuple[int, ...] | None = None
        if best.peak > max(self.budget, best.peak_before):
            order = self._make_room(best)
            if order is None:
                self.refusals[first, second] = score_placement(self.groups, best, self.budget, shared)
                self._give_way()
                if best.peak > max(self.budget, best.peak_before):
                    return None
        self.refusals.pop((first, second), None)
        return _Way(best, order, shared)

    def _make_room(self, placement: Placement) -> tuple[int, ...] | None:
        """An order with room for a fusion.  Searched once for the same two groups: asked again, they fit or do not.

        Inductor asks about a pair in every round; without this a few hopeless pairs would eat the budget of all.
        """
        sides = (placement.first, placement.second)
        key = (*sides, *(len(self.groups.members[side]) for side in sides))
        if key in self._searched:
            return None
        self._searched.add(key)
        return make_room(self.groups, placement, self.budget, self._room, _ROOM_UNITS_PER_FUSION)

    def _give_way(self) -> None:
        """Raise the budget until the refusals that stand cost at most `max_extra_kernels` kernels."""
        if self.max_extra_kernels is None:
            return
        while self._extra_kernels() > self.max_extra_kernels:
            cheapest = min(self.standing_refusals(), key=lambda refusal: refusal.price)
            self.budget += cheapest.price
            self.refusals = {
                pair: dataclasses.replace(refusal, price=refusal.price - cheapest.price)
                for pair, refusal in self.refusals.items()
                if refusal.price > cheapest.price
            }
            self._ways = {pair: way for pair, way in self._ways.items() if way}

    def _extra_kernels(self) -> int:
        """How many kernels fewer there would be with all refused fusions made: the edges of a spanning forest."""
        root: dict[int, int] = {}

        def find(group: int) -> int:
            while (above := root.setdefault(group, group)) != group:
                group = above
            return group

        edges = 0
        for refusal in self.standing_refusals():
            first, second = (find(self.groups.group_of[side[0]]) for side in (refusal.ops, refusal.other))
            if first != second:
                root[first] = second
                edges += 1
        return edges

"""Choosing a subset of wanted fusions together with an order: as many as fit a budget, those that save most first.

Wanted are whole kernels, such as those that stock Inductor made; a kernel of k ops is k - 1 fusions, and any part of a
kernel may be kept.  The choice alternates:

    1. fuse what fits, the fusions that save the most traffic first        (`memsched.fusion.planner`)
    2. what does not fit may come back when another order makes room       (`memsched.fusion.room`)
    3. until neither step adds a fusion

It is done for several priorities (traffic, price, traffic for each byte of price), and the choice that keeps the most
fusions is returned: which fusions exclude each other is a knapsack, and no priority is best on every graph.

    wanted  [a b c]  budget 6        a-b saves 8, a-c saves 4, all three need 7
    kept    [a b] [c]                one of two fusions
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memsched.core.graph import Graph
from memsched.fusion.groups import FusionCycle
from memsched.fusion.planner import FusionPlanner
from memsched.fusion.score import FusionScore, score_fusion

__all__ = ["PRIORITIES", "Choice", "choose_fusions", "num_fusions"]

Priority = Callable[[FusionScore], tuple[float, ...]]

PRIORITIES: dict[str, Priority] = {
    "traffic": lambda score: (-score.traffic,),
    "price": lambda score: (score.price, -score.traffic),
    "traffic per byte": lambda score: (-score.traffic / (1 + score.price),),
}
"""Least first: which of the fusions that are possible now is tried next."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Kernels (ops of the graph) in the order in which they run, the peak of that order, and what was decided."""

    kernels: tuple[tuple[int, ...], ...]
    peak: int
    made: tuple[FusionScore, ...]
    refused: tuple[FusionScore, ...]
    priority: str


def num_fusions(kernels: Sequence[Sequence[int]]) -> int:
    """Launches that these kernels save: one less than its ops for each."""
    return sum(len(ops) - 1 for ops in kernels)


def choose_fusions(
    graph: Graph,
    wanted: Sequence[Sequence[int]],
    order: Sequence[int],
    budget: int,
    priorities: Sequence[str] = tuple(PRIORITIES),
    room_units: int | None = None,
) -> Choice:
    """The most fusions of `wanted` that an order keeps within `budget` bytes, as far as the search finds them.

    order: a topological order of `graph`; where it needs more than `budget`, what it needs is not exceeded.
    room_units: of the planner; 0 searches no other order for a fusion that does not fit.
    """
    more: dict[str, Any] = {} if room_units is None else {"room_units": room_units}
    found = []
    for name in priorities:
        choice = _choose(FusionPlanner(graph, order, budget, **more), wanted, name)
        found.append(choice)
        if num_fusions(choice.kernels) == num_fusions(wanted):
            break
    return max(found, key=lambda choice: (num_fusions(choice.kernels), -choice.peak))


def _choose(planner: FusionPlanner, wanted: Sequence[Sequence[int]], name: str) -> Choice:
    while _round(planner, wanted, PRIORITIES[name]):
        pass
    refused = tuple(planner.standing_refusals())
    kernels = tuple(tuple(ops) for ops in planner.order())
    return Choice(kernels, planner.groups.peak(), tuple(planner.made), refused, name)


def _round(planner: FusionPlanner, wanted: Sequence[Sequence[int]], priority: Priority) -> bool:
    """Try every fusion that is possible now, in the order of `priority`; whether one was made."""
    groups = planner.groups
    candidates = []
    for ops in wanted:
        for group, other in itertools.combinations(sorted({groups.group_of[op] for op in ops}), 2):
            try:
                candidates.append(score_fusion(groups, group, other, planner.budget))
            except FusionCycle:
                continue
    # Without traffic: ops that meet only through a third one, or through an input that the graph does not list.
    candidates.sort(key=lambda score: (not score.traffic, priority(score), score.ops, score.other))
    fused = False
    for score in candidates:
        apart = groups.group_of[score.ops[0]] != groups.group_of[score.other[0]]
        if apart and planner.may_fuse(score.ops, score.other):
            planner.fuse([*score.ops, *score.other])
            fused = True
    return fused

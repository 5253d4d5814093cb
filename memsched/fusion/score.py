"""What a fusion brings and what it costs, in bytes and kernels, under the order that is planned now.

    A ──X 4──> B ──Y 1──>        fusing A and B     traffic      8   X is neither written nor read again
      ──────Z 2──────> C                            kernels      1   one launch instead of two
    W 100 ──> A                                     peak change  what the planned peak rises by when A waits for B, or
                                                                 B comes to A, whichever is less

Traffic is that of kernels that move whole buffers, which is what Inductor's own score assumes too: a gather or a slice
moves less.  The peak change is exact for the planned order: only the window between the two kernels is simulated, the
steps outside keep their bytes (`memsched.fusion.groups`).  It is not the last word: a search over all orders may make
room (`memsched.fusion.room`), and it may turn out negative, when what is fused away was live at the peak.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.fusion.groups import FusionCycle, Groups, Placement

__all__ = [
    "FUSIBLE_KINDS",
    "FusionScore",
    "candidate_pairs",
    "score_candidates",
    "score_fusion",
    "score_placement",
]

FUSIBLE_KINDS = ("SchedulerNode", "FusedSchedulerNode", "OuterLoopFusedSchedulerNode", "")
"""Kinds of ops whose code Inductor generates, and may therefore fuse; "" where the file does not say."""


@dataclass(frozen=True, slots=True)
class FusionScore:
    """One fusion of two groups of ops, judged under the order that was planned at that time.

    traffic: bytes that need no longer be moved; kernels: launches saved.
    peak_change: bytes by which the peak of the planned order changes.
    price: bytes by which the fused kernels' steps exceed the budget; 0 for a fusion that fits.
    vertical: whether one group reads what the other writes; otherwise they are fused side by side.
    """

    ops: tuple[int, ...]
    other: tuple[int, ...]
    traffic: int
    peak_change: int
    price: int = 0
    kernels: int = 1
    vertical: bool = False


def score_fusion(groups: Groups, group: int, other: int, budget: int | None = None) -> FusionScore:
    """The score of fusing two groups where that costs least; raises FusionCycle when they cannot be fused."""
    return score_placement(groups, groups.placements(group, other)[0], budget)


def score_placement(groups: Groups, placement: Placement, budget: int | None = None, shared: int = 0) -> FusionScore:
    """The score of one way to fuse two groups; the price is above `budget`, by default the present peak.

    shared: bytes that both touch, where more is known than the graph says: it lists no inputs that the caller keeps.
    """
    first, second = placement.first, placement.second
    limit = max(groups.peak() if budget is None else budget, placement.peak_before)
    return FusionScore(
        ops=tuple(sorted(groups.members[first])),
        other=tuple(sorted(groups.members[second])),
        traffic=max(shared, groups.traffic(first, second)),
        peak_change=groups.peak_after(placement) - groups.peak(),
        price=max(0, placement.peak - limit),
        vertical=groups.depends(first, second),
    )


def candidate_pairs(graph: Graph) -> Iterator[tuple[int, int]]:
    """Pairs of ops that share a buffer and whose code is generated: what might be fused, were it legal.

    The graph does not know loops, so Inductor may find less: different iteration spaces, a device, a barrier.
    """
    seen = set()
    for buffer in graph.buffers:
        users = [*buffer.consumers] if buffer.producer is None else [buffer.producer, *buffer.consumers]
        users = sorted(op for op in users if graph.ops[op].kind in FUSIBLE_KINDS)
        for at, first in enumerate(users):
            for second in users[at + 1 : at + 1 + _NEIGHBOURS]:
                if (first, second) not in seen:
                    seen.add((first, second))
                    yield first, second


_NEIGHBOURS = 64
"""As `max_fusion_buffer_group_pairwise_attempts` of Inductor: later readers of the same buffer are not paired."""


def score_candidates(groups: Groups, pairs: Iterable[tuple[int, int]]) -> list[FusionScore]:
    """The scores of all `pairs` of ops that can be fused, each alone, dearest first."""
    scores = []
    for op, other in pairs:
        group, second = groups.group_of[op], groups.group_of[other]
        if group == second:
            continue
        try:
            scores.append(score_fusion(groups, group, second))
        except FusionCycle:
            continue
    return sorted(scores, key=lambda score: (-score.price, -score.peak_change, -score.traffic, score.ops, score.other))

"""Chains of segments: what a collapsed part of a problem becomes.

A *link* is a segment of nodes that run without interruption (see `series_parallel.segments`), or a *fixed* node, which
reads a truly shared tensor: what it frees depends on the order, so it stays a node of its own.  Segments between two
fixed nodes are kept in Johnson's order; nothing is fused across a fixed node.

    a  (4,1)  (6,2) | reader | (1,5)  b        two runs of segments with a fixed node between them
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memsched.search.exact.problem import Problem, SharedTensor, bits, mask_of
from memsched.series_parallel.segments import Rope, Segment, flatten, fuse, johnson_key

__all__ = [
    "Chain",
    "Link",
    "in_parallel",
    "in_series",
    "is_free",
    "nodes_of",
    "problem_of_links",
    "rope_of",
    "segments_in_series",
]

Link = Segment | int
Chain = list[Link]


def is_free(chain: Chain) -> bool:
    """Whether the chain has no fixed node, so that it can be interleaved by Johnson's rule."""
    return not any(isinstance(link, int) for link in chain)


def in_series(first: Chain, second: Chain) -> Chain:
    """`first`, then `second`; the segments at the border are fused until they are in Johnson's order."""
    num_free = next((at for at, link in enumerate(second) if isinstance(link, int)), len(second))
    border = len(first)
    while border and isinstance(first[border - 1], Segment):
        border -= 1
    run = [link for link in (*first[border:], *second[:num_free]) if isinstance(link, Segment)]
    return [*first[:border], *segments_in_series(run), *second[num_free:]]


def segments_in_series(segments: Iterable[Segment]) -> list[Segment]:
    """Segments that run one after the other, fused until they are in Johnson's order."""
    result: list[Segment] = []
    for segment in segments:
        while result and not _in_order(result[-1], segment):
            segment = fuse(result.pop(), segment)
        result.append(segment)
    return result


def in_parallel(chains: Sequence[Chain]) -> Chain:
    """Free chains side by side, as one: Johnson's order; ties keep the order of the arguments."""
    segments = [link for chain in chains for link in chain if isinstance(link, Segment)]
    segments.sort(key=lambda segment: johnson_key(segment.hump, segment.drop))
    return list(segments)


def rope_of(nodes: Sequence[int]) -> Rope:
    """The rope of some nodes (at least one)."""
    rope: Rope = nodes[0]
    for node in nodes[1:]:
        rope = (rope, node)
    return rope


def nodes_of(link: Link) -> list[int]:
    """The nodes of a link in the order in which they run."""
    return [link] if isinstance(link, int) else flatten([link.rope])


def problem_of_links(problem: Problem, links: Sequence[Link], predecessors: Sequence[int]) -> Problem:
    """The problem whose nodes are `links` of the nodes of `problem`."""
    humps, deltas, ropes = [], [], []
    place: dict[int, int] = {}
    for at, link in enumerate(links):
        if isinstance(link, int):
            place[link] = at
            humps.append(problem.humps[link])
            deltas.append(problem.deltas[link])
        else:
            humps.append(link.hump)
            deltas.append(link.net)
        ropes.append(problem.lift(nodes_of(link)))
    shared = (
        SharedTensor(tensor.size, mask_of(place[reader] for reader in bits(tensor.readers)))
        for tensor in problem.shared
        if all(reader in place for reader in bits(tensor.readers))
    )
    return Problem(tuple(predecessors), tuple(humps), tuple(deltas), tuple(shared), problem.base, tuple(ropes))


def _in_order(first: Segment, second: Segment) -> bool:
    return johnson_key(first.hump, first.drop) < johnson_key(second.hump, second.drop)

"""Hill-valley segments, and how they add up in series and in parallel.

When every buffer has one op that frees it, running an op changes the live bytes by a fixed amount.  A *segment* is a
run of ops that an optimal order need not interrupt.  It climbs `hump` bytes above the level at which it starts, then
falls by `drop`:

         ┌─┐ hill                one op: hump = outputs + workspace
         │ │ drop                        drop = workspace + what it frees (inputs, outputs that nobody reads)
    hump │ └── valley
    ─────┘                       net = hump - drop, what the level has changed by afterwards

A block of ops (a node of the decomposition tree) is a list of segments in *Johnson's order*: first those that lower
the level (drop > hump), by increasing hump; then the others, by decreasing drop.  The border between the two groups
is the fewest live bytes the block can pass through (its minimum topological cut).

    op               [(hump, drop)]
    in parallel      merge the lists.  Two neighbours of different branches in the wrong order can be swapped without
                     raising the peak (Johnson's rule for two machines: hump and drop are the two processing times).
    in series        A's list, then B's.  While the last segment x of A does not come strictly before the first
                     segment y of B in Johnson's order, fuse them to one:
                         hump = max(x.hump, x.net + y.hump)        net = x.net + y.net
                     What another branch puts between x and y may as well come before x (if it is not after x in
                     Johnson's order) or after y (otherwise), so x and y may be neighbours.

Claim: the list of the root, from left to right, is an order of least peak.  For an in-tree this is Liu's algorithm.

Both compositions only look at the ends of sorted lists and unite them, so a block is a double-ended priority queue
that is united by moving the smaller into the larger: O(n log^2 n) for any tree, however deep or skewed.

References: J. W. H. Liu, An application of generalized tree pebbling to sparse matrix factorization, SIAM J. Alg.
Disc. Meth. 8, 1987.  H. M. Abdel-Wahab, T. Kameda, Scheduling to minimize maximum cumulative cost subject to
series-parallel precedence constraints, Operations Research 26, 1978.  E. Kayaaslan, T. Lambert, L. Marchal, B. Ucar,
Scheduling series-parallel task graphs to minimize peak memory, Theoretical Computer Science 707, 2018.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from memsched.series_parallel.tree import Series, Tree, post_order

__all__ = [
    "Block",
    "Rope",
    "Segment",
    "SegmentAlgebra",
    "flatten",
    "fuse",
    "johnson_key",
    "segments_of",
    "segments_of_nodes",
]

Rope = int | tuple["Rope", "Rope"]
"""A sequence of ops that is joined in constant time: one op, or two ropes one after the other."""


class Segment(NamedTuple):
    """Ops that run without interruption; they climb `hump` bytes, then fall by `drop` bytes.

    Bytes are relative to the level at which the segment starts; `rope` are its ops (see `ops`).
    """

    hump: int
    drop: int
    rope: Rope

    @property
    def net(self) -> int:
        """Bytes by which the level has changed when the segment is over."""
        return self.hump - self.drop

    @property
    def ops(self) -> list[int]:
        """The ops in the order in which they run."""
        return flatten([self.rope])


_ABOVE_EVERY_SIZE = 2**64  # all sizes of a graph add up to at most 2**62, so a drop is at most 2**63


def johnson_key(hump: int, drop: int) -> int:
    """A number whose order is Johnson's: falling segments by hump (keys below 0), then the others by falling drop."""
    return hump - _ABOVE_EVERY_SIZE if drop > hump else _ABOVE_EVERY_SIZE - drop


def fuse(first: Segment, second: Segment) -> Segment:
    """`first`, then `second`, as one segment."""
    hump = max(first.hump, first.net + second.hump)
    return Segment(hump, hump - first.net - second.net, (first.rope, second.rope))


def flatten(ropes: Sequence[Rope]) -> list[int]:
    """The ops of the ropes, one rope after the other."""
    ops: list[int] = []
    stack: list[Rope] = list(reversed(ropes))
    while stack:
        rope = stack.pop()
        if isinstance(rope, tuple):
            stack.append(rope[1])
            stack.append(rope[0])
        else:
            ops.append(rope)
    return ops


class Block:
    """The segments of one block: two heaps over the same segments, one for each end of the list.

    Entries are (key, serial) and (-key, -serial); one whose segment has been fused away is skipped when it comes up.
    Equal keys only occur between parallel branches; the serial number decides, so the order is repeatable.
    """

    __slots__ = ("from_left", "from_right")

    def __init__(self, key: int, serial: int) -> None:
        self.from_left = [(key, serial)]
        self.from_right = [(-key, -serial)]


class SegmentAlgebra:
    """The operations on blocks.  Owns the segments, by serial number; None where one has been fused into another.

    Composition consumes its operands: a block may be used once.
    """

    def __init__(self) -> None:
        self._segments: list[Segment | None] = []

    def leaf(self, op: int, hump: int, drop: int) -> Block:
        """The block of one op."""
        return self._new_block(Segment(hump, drop, op))

    def parallel(self, blocks: Sequence[Block]) -> Block:
        """The blocks side by side: their segments in Johnson's order."""
        return self._united(blocks)

    def series(self, blocks: Sequence[Block]) -> Block:
        """The blocks one after the other, fused where a border is out of order."""
        result = blocks[0]
        for block in blocks[1:]:
            result = self._in_sequence(result, block)
        return result

    def segments(self, block: Block) -> list[Segment]:
        """The segments of `block` from left to right."""
        found = (self._segments[serial] for _, serial in sorted(block.from_left))
        return [segment for segment in found if segment is not None]

    def _new_block(self, segment: Segment) -> Block:
        self._segments.append(segment)
        return Block(johnson_key(segment.hump, segment.drop), len(self._segments) - 1)

    def _in_sequence(self, left: Block, right: Block) -> Block:
        """`left`, then `right`: fuse from the border outwards until both ends are in order, then unite."""
        last, first = self._last(left), self._first(right)
        if last is None or first is None or johnson_key(*last[:2]) < johnson_key(*first[:2]):
            return self._united((left, right))
        self._drop_last(left)
        self._drop_first(right)
        middle = fuse(last, first)
        while True:
            key = johnson_key(middle.hump, middle.drop)
            last, first = self._last(left), self._first(right)
            if last is not None and johnson_key(*last[:2]) >= key:
                self._drop_last(left)
                middle = fuse(last, middle)
            elif first is not None and key >= johnson_key(*first[:2]):
                self._drop_first(right)
                middle = fuse(middle, first)
            else:
                return self._united((left, self._new_block(middle), right))

    def _united(self, blocks: Sequence[Block]) -> Block:
        """All segments in one block: the smaller queues are moved into the largest."""
        largest = max(blocks, key=lambda block: len(block.from_left))
        moved = [
            entry
            for block in blocks
            if block is not largest
            for entry in block.from_left
            if self._segments[entry[1]] is not None
        ]
        # pushing costs log(size) for each entry, building anew a constant for each of the size
        if len(moved) * 4 > len(largest.from_left):
            largest.from_left += moved
            largest.from_right += [(-key, -serial) for key, serial in moved]
            heapq.heapify(largest.from_left)
            heapq.heapify(largest.from_right)
        else:
            for key, serial in moved:
                heapq.heappush(largest.from_left, (key, serial))
                heapq.heappush(largest.from_right, (-key, -serial))
        return largest

    def _first(self, block: Block) -> Segment | None:
        heap = block.from_left
        while heap:
            segment = self._segments[heap[0][1]]
            if segment is not None:
                return segment
            heapq.heappop(heap)
        return None

    def _last(self, block: Block) -> Segment | None:
        heap = block.from_right
        while heap:
            segment = self._segments[-heap[0][1]]
            if segment is not None:
                return segment
            heapq.heappop(heap)
        return None

    def _drop_first(self, block: Block) -> None:
        self._segments[heapq.heappop(block.from_left)[1]] = None

    def _drop_last(self, block: Block) -> None:
        self._segments[-heapq.heappop(block.from_right)[1]] = None


def segments_of(tree: Tree, humps: Sequence[int], drops: Sequence[int]) -> list[Segment]:
    """The segments of the whole tree in an order of least peak; `humps` and `drops` by op, in bytes.  O(n log^2 n)."""
    algebra = SegmentAlgebra()
    blocks: list[Block] = []
    for node in post_order(tree):
        _compose(algebra, blocks, node, humps, drops)
    return algebra.segments(blocks[0])


def segments_of_nodes(tree: Tree, humps: Sequence[int], drops: Sequence[int]) -> Iterator[tuple[Tree, list[Segment]]]:
    """Every node of the tree, in post-order, with the segments of its block: for printing, as it copies each list."""
    algebra = SegmentAlgebra()
    blocks: list[Block] = []
    for node in post_order(tree):
        _compose(algebra, blocks, node, humps, drops)
        yield node, algebra.segments(blocks[-1])


def _compose(
    algebra: SegmentAlgebra, blocks: list[Block], node: Tree, humps: Sequence[int], drops: Sequence[int]
) -> None:
    """Replace the blocks of the node's children, the last on the stack, by the block of the node."""
    if isinstance(node, int):
        blocks.append(algebra.leaf(node, humps[node], drops[node]))
        return
    parts = blocks[-len(node.children) :]
    del blocks[-len(node.children) :]
    blocks.append(algebra.series(parts) if isinstance(node, Series) else algebra.parallel(parts))

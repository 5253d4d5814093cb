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

from memsched.series_parallel.tree import Parallel, Series, Tree, post_order

__all__ = [
    "Block",
    "Rope",
    "Segment",
    "SegmentAlgebra",
    "SegmentQueue",
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
_BEFORE_EVERY_KEY, _AFTER_EVERY_KEY = -(2**65), 2**65


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


_SERIAL_BITS = 40
_SERIAL_MASK = (1 << _SERIAL_BITS) - 1


class SegmentQueue:
    """The segments of one block: two heaps over the same segments, one for each end of the list.

    An entry is a single integer, Johnson's key above the serial number of the segment; `from_right` holds entries with
    the sign turned.  An entry whose segment has been fused away is skipped when it comes up.  Keys are equal only
    between parallel branches; the serial number decides, so the order is repeatable.
    """

    __slots__ = ("from_left", "from_right")

    def __init__(self, entries: list[int]) -> None:
        self.from_left = entries
        self.from_right = [-entry for entry in entries]
        heapq.heapify(self.from_left)
        heapq.heapify(self.from_right)


Block = Segment | SegmentQueue
"""A block of one segment is that segment; most of them are."""


class SegmentAlgebra:
    """The operations on blocks.  Owns the queued segments, by serial number; None where one has been fused away.

    Composition consumes its operands: a block may be used once.
    """

    def __init__(self) -> None:
        self._segments: list[Segment | None] = []

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
        if isinstance(block, Segment):
            return [block]
        found = (self._segments[entry & _SERIAL_MASK] for entry in sorted(block.from_left))
        return [segment for segment in found if segment is not None]

    def _in_sequence(self, left: Block, right: Block) -> Block:
        """`left`, then `right`: fuse from the border outwards until both ends are in order, then unite."""
        if isinstance(left, Segment):
            if not isinstance(right, Segment):
                return self._grown(None, left, right)
            fits = johnson_key(left.hump, left.drop) < johnson_key(right.hump, right.drop)
            return self._united((left, right)) if fits else fuse(left, right)
        if isinstance(right, Segment):
            return self._grown(left, right, None)
        if self._last_key(left) < self._first_key(right):
            return self._united((left, right))
        return self._grown(left, fuse(self._take_last(left), self._take_first(right)), right)

    def _grown(self, queue_before: SegmentQueue | None, middle: Segment, queue_after: SegmentQueue | None) -> Block:
        """`middle` between two blocks, either of which may be missing; what is out of order is fused into it."""
        before = _BEFORE_EVERY_KEY if queue_before is None else self._last_key(queue_before)
        after = _AFTER_EVERY_KEY if queue_after is None else self._first_key(queue_after)
        while True:
            key = johnson_key(middle.hump, middle.drop)
            if before >= key and queue_before is not None:
                middle = fuse(self._take_last(queue_before), middle)
                before = self._last_key(queue_before)
            elif key >= after and queue_after is not None:
                middle = fuse(middle, self._take_first(queue_after))
                after = self._first_key(queue_after)
            else:
                break
        parts: list[Block] = [middle]
        if queue_before is not None and before != _BEFORE_EVERY_KEY:
            parts.append(queue_before)
        if queue_after is not None and after != _AFTER_EVERY_KEY:
            parts.append(queue_after)
        return self._united(parts)

    def _united(self, blocks: Sequence[Block]) -> Block:
        """All segments in one block: single ones and the smaller queues are moved into the largest queue."""
        if len(blocks) == 1:
            return blocks[0]
        moved: list[int] = []
        largest: SegmentQueue | None = None
        for block in blocks:
            if isinstance(block, Segment):
                self._segments.append(block)
                key = johnson_key(block.hump, block.drop)
                moved.append((key << _SERIAL_BITS) + len(self._segments) - 1)
            elif largest is None or len(block.from_left) > len(largest.from_left):
                moved += self._live_entries(largest)
                largest = block
            else:
                moved += self._live_entries(block)
        if largest is None:
            return SegmentQueue(moved)
        # pushing costs up to log(size) for each entry, building anew a constant for each of the size
        if len(moved) * 4 > len(largest.from_left):
            return SegmentQueue(self._live_entries(largest) + moved)
        for entry in moved:
            heapq.heappush(largest.from_left, entry)
            heapq.heappush(largest.from_right, -entry)
        return largest

    def _live_entries(self, queue: SegmentQueue | None) -> list[int]:
        entries = [] if queue is None else queue.from_left
        return [entry for entry in entries if self._segments[entry & _SERIAL_MASK] is not None]

    def _first_key(self, queue: SegmentQueue) -> int:
        """Johnson's key of the first segment; _AFTER_EVERY_KEY when none is left."""
        heap = queue.from_left
        while heap and self._segments[heap[0] & _SERIAL_MASK] is None:
            heapq.heappop(heap)
        return heap[0] >> _SERIAL_BITS if heap else _AFTER_EVERY_KEY

    def _last_key(self, queue: SegmentQueue) -> int:
        """Johnson's key of the last segment; _BEFORE_EVERY_KEY when none is left."""
        heap = queue.from_right
        while heap and self._segments[-heap[0] & _SERIAL_MASK] is None:
            heapq.heappop(heap)
        return -heap[0] >> _SERIAL_BITS if heap else _BEFORE_EVERY_KEY

    def _take_first(self, queue: SegmentQueue) -> Segment:
        """Remove the segment whose key `_first_key` has just given."""
        return self._take(heapq.heappop(queue.from_left))

    def _take_last(self, queue: SegmentQueue) -> Segment:
        """Remove the segment whose key `_last_key` has just given."""
        return self._take(-heapq.heappop(queue.from_right))

    def _take(self, entry: int) -> Segment:
        serial = entry & _SERIAL_MASK
        segment = self._segments[serial]
        assert segment is not None, "dead entries are skipped before one is taken"
        self._segments[serial] = None
        return segment


def segments_of(tree: Tree, humps: Sequence[int], drops: Sequence[int]) -> list[Segment]:
    """The segments of the whole tree in an order of least peak; `humps` and `drops` by op, in bytes.  O(n log^2 n)."""
    algebra = SegmentAlgebra()
    blocks: list[Block] = []
    for node in post_order(tree):
        if isinstance(node, int):
            blocks.append(Segment(humps[node], drops[node], node))
        else:
            _compose(algebra, blocks, node)
    return algebra.segments(blocks[0])


def segments_of_nodes(tree: Tree, humps: Sequence[int], drops: Sequence[int]) -> Iterator[tuple[Tree, list[Segment]]]:
    """Every node of the tree, in post-order, with the segments of its block: for printing, as it copies each list."""
    algebra = SegmentAlgebra()
    blocks: list[Block] = []
    for node in post_order(tree):
        if isinstance(node, int):
            blocks.append(Segment(humps[node], drops[node], node))
        else:
            _compose(algebra, blocks, node)
        yield node, algebra.segments(blocks[-1])


def _compose(algebra: SegmentAlgebra, blocks: list[Block], node: Series | Parallel) -> None:
    """Replace the blocks of the node's children, the last on the stack, by the block of the node."""
    parts = blocks[-len(node.children) :]
    del blocks[-len(node.children) :]
    blocks.append(algebra.series(parts) if isinstance(node, Series) else algebra.parallel(parts))

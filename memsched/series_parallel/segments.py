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

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
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


_NUMBER_BITS = 40
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1
_NOTHING = -1


class SegmentQueue:
    """The segments of one block: two heaps over the same segments, one for each end of the list.

    An entry is a single integer, Johnson's key above the number of the segment; `from_right` holds entries with the
    sign turned.  An entry whose segment has been fused away is skipped when it comes up.  Keys are equal only between
    parallel branches; the number decides, so the order is repeatable.
    """

    __slots__ = ("from_left", "from_right")

    def __init__(self, entries: list[int]) -> None:
        entries.sort()  # a sorted list is a heap
        self.from_left = entries
        self.from_right = [-entry for entry in reversed(entries)]


Block = int | SegmentQueue
"""A block of one segment is the number of that segment; most of them are."""


class SegmentAlgebra:
    """The operations on blocks.  Owns all segments, by number: op v alone is segment v, then come the fused ones.

    Composition consumes its operands: a block may be used once.
    """

    def __init__(self, humps: Sequence[int], drops: Sequence[int]) -> None:
        # parallel lists of numbers: an object for each segment would cost more than the algebra itself
        self._humps, self._drops = list(humps), list(drops)
        self._keys = list(map(johnson_key, humps, drops))
        self._ropes: list[Rope] = list(range(len(humps)))
        self._is_fused = bytearray(len(humps))

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
        numbers = [block] if isinstance(block, int) else [e & _NUMBER_MASK for e in sorted(self._entries(block))]
        return [Segment(self._humps[at], self._drops[at], self._ropes[at]) for at in numbers]

    def _fuse(self, first: int, second: int) -> int:
        """The number of the segment `first`, then `second`; both are gone."""
        climb = self._humps[first] - self._drops[first] + self._humps[second]
        hump = max(self._humps[first], climb)
        drop = hump - climb + self._drops[second]
        self._is_fused[first] = self._is_fused[second] = True
        self._is_fused.append(False)
        self._humps.append(hump)
        self._drops.append(drop)
        self._keys.append(johnson_key(hump, drop))
        self._ropes.append((self._ropes[first], self._ropes[second]))
        return len(self._keys) - 1

    def _in_sequence(self, left: Block, right: Block) -> Block:
        """`left`, then `right`: fuse from the border outwards until both ends are in order, then unite."""
        keys = self._keys
        last, first = self._last(left), self._first(right)
        if keys[last] < keys[first]:
            return self._united((left, right))
        middle = self._fuse(last, first)
        last, first = self._last(left), self._first(right)
        while True:
            if last != _NOTHING and keys[last] >= keys[middle]:
                middle = self._fuse(last, middle)
                last = self._last(left)
            elif first != _NOTHING and keys[middle] >= keys[first]:
                middle = self._fuse(middle, first)
                first = self._first(right)
            else:
                break
        parts: list[Block] = [middle]
        if last != _NOTHING:
            parts.append(left)
        if first != _NOTHING:
            parts.append(right)
        return self._united(parts)

    def _united(self, blocks: Sequence[Block]) -> Block:
        """All segments in one block: single ones and the smaller queues are moved into the largest queue."""
        if len(blocks) == 1:
            return blocks[0]
        largest: SegmentQueue | None = None
        moved: list[int] = []
        for block in blocks:
            if isinstance(block, int):
                moved.append((self._keys[block] << _NUMBER_BITS) + block)
            elif largest is None or len(block.from_left) > len(largest.from_left):
                moved += self._entries(largest)
                largest = block
            else:
                moved += self._entries(block)
        if largest is None:
            return SegmentQueue(moved)
        for entry in moved:
            heappush(largest.from_left, entry)
            heappush(largest.from_right, -entry)
        return largest

    def _entries(self, queue: SegmentQueue | None) -> list[int]:
        is_fused = self._is_fused
        entries = [] if queue is None else queue.from_left
        return [entry for entry in entries if not is_fused[entry & _NUMBER_MASK]]

    def _first(self, block: Block) -> int:
        """The first segment that has not been fused away; _NOTHING when none is left."""
        is_fused = self._is_fused
        if isinstance(block, int):
            return _NOTHING if is_fused[block] else block
        heap = block.from_left
        while heap:
            number = heap[0] & _NUMBER_MASK
            if not is_fused[number]:
                return number
            heappop(heap)
        return _NOTHING

    def _last(self, block: Block) -> int:
        """The last segment that has not been fused away; _NOTHING when none is left."""
        is_fused = self._is_fused
        if isinstance(block, int):
            return _NOTHING if is_fused[block] else block
        heap = block.from_right
        while heap:
            number = -heap[0] & _NUMBER_MASK
            if not is_fused[number]:
                return number
            heappop(heap)
        return _NOTHING


def segments_of(tree: Tree, humps: Sequence[int], drops: Sequence[int]) -> list[Segment]:
    """The segments of the whole tree in an order of least peak; `humps` and `drops` by op, in bytes.  O(n log^2 n)."""
    algebra = SegmentAlgebra(humps, drops)
    blocks: list[Block] = []
    for node in post_order(tree):
        if isinstance(node, int):
            blocks.append(node)
        else:
            _compose(algebra, blocks, node)
    return algebra.segments(blocks[0])


def segments_of_nodes(tree: Tree, humps: Sequence[int], drops: Sequence[int]) -> Iterator[tuple[Tree, list[Segment]]]:
    """Every node of the tree, in post-order, with the segments of its block: for printing, as it copies each list."""
    algebra = SegmentAlgebra(humps, drops)
    blocks: list[Block] = []
    for node in post_order(tree):
        if isinstance(node, int):
            blocks.append(node)
        else:
            _compose(algebra, blocks, node)
        yield node, algebra.segments(blocks[-1])


def _compose(algebra: SegmentAlgebra, blocks: list[Block], node: Series | Parallel) -> None:
    """Replace the blocks of the node's children, the last on the stack, by the block of the node."""
    parts = blocks[-len(node.children) :]
    del blocks[-len(node.children) :]
    blocks.append(algebra.series(parts) if isinstance(node, Series) else algebra.parallel(parts))

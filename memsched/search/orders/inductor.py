"""Inductor's four candidate orders, reproduced, and a topological order by priority.

`torch._inductor.memory.reorder_for_peak_memory` (torch 2.13) keeps the best of four orders:

    incoming  the order that the scheduler hands over
    lpmf      least peak memory first: among the ready ops that fit under the peak so far the one that leaves the fewest
              bytes live; when none fits, the one that allocates the fewest
    bfs       first come, first served: the ready op whose predecessors ran earliest
    dfs       depth first from the ops that touch the fewest bytes; an op follows its predecessors, small ones first

           ┌──4──> b ──1──> d         incoming  a b c d e       bfs  a b c d e
        a ─┤                           lpmf      a b c e d       (c leaves fewer bytes than d, then e fewer than d)
           └──4──> c ──2──> e         dfs       a b d c e       (d touches 1 byte, e touches 2, b 5, c 6, a 8)

On 56 captured graphs these orders have the peaks that Inductor recorded itself, except one bfs order of 224 (0.02% off
on a graph of 822 ops).  There Inductor must have seen other predecessors than the graph states, probably around a
mutation, where it lists the readers of the new value under both names; the file cannot tell.

What differs is the cost.  Inductor's lpmf scans every ready op at every step, quadratic on wide graphs; here a tree
over the distinct sizes answers in logarithmic time.  Inductor's dfs recurses; here a stack does the work.

Other published heuristics are in `heuristics_xla` and `heuristics_serenity`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence

from memsched.core.graph import Graph

__all__ = ["bfs_order", "dfs_order", "lpmf_order", "post_order", "priority_order", "stock_orders"]

Key = tuple[int, int]
_NOTHING: Key = (1 << 63, 1 << 63)
"""Sorts behind every real (net bytes, op)."""


def stock_orders(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Inductor's four candidates by the names of `Graph.stock_peaks`, in the order in which Inductor prefers them."""
    return {
        "incoming": graph.topological_order,
        "lpmf": lpmf_order(graph),
        "bfs": bfs_order(graph),
        "dfs": dfs_order(graph),
    }


def priority_order(graph: Graph, priority: Sequence[float]) -> tuple[int, ...]:
    """The topological order that always runs the ready op of least (priority, index); Kahn 1962 with a heap."""
    missing = [len(before) for before in graph.predecessors]
    ready = [(priority[op], op) for op, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, op = heapq.heappop(ready)
        order.append(op)
        for successor in graph.successors[op]:
            missing[successor] -= 1
            if not missing[successor]:
                heapq.heappush(ready, (priority[successor], successor))
    return tuple(order)


def bfs_order(graph: Graph) -> tuple[int, ...]:
    """Inductor's breadth-first order: least list of the positions at which the predecessors ran, then the index."""
    missing = [len(before) for before in graph.predecessors]
    ready: list[tuple[list[int], int]] = [([], op) for op, count in enumerate(missing) if not count]
    position = [0] * len(graph)
    order: list[int] = []
    while ready:
        _, op = heapq.heappop(ready)
        position[op] = len(order)
        order.append(op)
        for successor in graph.successors[op]:
            missing[successor] -= 1
            if not missing[successor]:
                came_at = sorted(position[before] for before in graph.predecessors[successor])
                heapq.heappush(ready, (came_at, successor))
    return tuple(order)


def dfs_order(graph: Graph) -> tuple[int, ...]:
    """Inductor's depth-first order: post-order over predecessors, least (bytes written and read, index) first."""
    touched = [
        graph.output_bytes[op] + sum(graph.buffers[index].size for index in graph.inputs_of[op])
        for op in range(len(graph))
    ]
    keys = [(bytes_touched, op) for op, bytes_touched in enumerate(touched)]
    return post_order(graph.predecessors, keys, sorted(range(len(graph)), key=keys.__getitem__))


def post_order(
    predecessors: Sequence[Sequence[int]], keys: Sequence[tuple[int, ...]], roots: Sequence[int]
) -> tuple[int, ...]:
    """Post-order of a depth-first walk from `roots`, in that order, over predecessors by increasing key."""
    seen = [False] * len(predecessors)
    order: list[int] = []
    for root in roots:
        if seen[root]:
            continue
        seen[root] = True
        stack = [(root, iter(sorted(predecessors[root], key=keys.__getitem__)))]
        while stack:
            op, waiting = stack[-1]
            for before in waiting:
                if not seen[before]:
                    seen[before] = True
                    stack.append((before, iter(sorted(predecessors[before], key=keys.__getitem__))))
                    break
            else:
                stack.pop()
                order.append(op)
    return tuple(order)


def lpmf_order(graph: Graph) -> tuple[int, ...]:
    """Inductor's "least peak memory first", O((ops + reads) log ops).

    A ready op that fits under the peak so far comes before one that does not; those that fit go by (output bytes minus
    freed bytes, index), those that do not by (output bytes, output bytes minus freed bytes, index).  Workspaces do not
    count, as in Inductor.
    """
    freed_by, unread = _bytes_freed_at_start(graph)
    missing = [len(before) for before in graph.predecessors]
    ready = _ReadyOps(graph.output_bytes)
    for op, count in enumerate(missing):
        if not count:
            ready.put(op, graph.output_bytes[op] - freed_by[op])
    live = graph.start_bytes
    peak = max(live, graph.end_bytes)
    order: list[int] = []
    while len(order) < len(graph):
        op = ready.take(peak - live)
        order.append(op)
        live += graph.output_bytes[op]
        peak = max(peak, live)
        live -= freed_by[op]
        for successor in graph.successors[op]:
            missing[successor] -= 1
            if not missing[successor]:
                ready.put(successor, graph.output_bytes[successor] - freed_by[successor])
        for index in graph.inputs_of[op]:
            unread[index] -= 1
            if unread[index] == 1:
                buffer = graph.buffers[index]
                for consumer in buffer.consumers:
                    freed_by[consumer] += buffer.size
                    if consumer in ready:
                        ready.put(consumer, graph.output_bytes[consumer] - freed_by[consumer])
    return tuple(order)


def _bytes_freed_at_start(graph: Graph) -> tuple[list[int], list[int]]:
    """What each op would free if it ran first, and for each buffer its readers, where being kept counts as one more."""
    unread = [len(buffer.consumers) + buffer.kept for buffer in graph.buffers]
    freed_by = [0] * len(graph)
    for index, buffer in enumerate(graph.buffers):
        if unread[index] == 1 and buffer.consumers:
            freed_by[buffer.consumers[0]] += buffer.size
        elif not unread[index] and buffer.producer is not None:
            freed_by[buffer.producer] += buffer.size
    return freed_by, unread


class _ReadyOps:
    """Ready ops in a tree of minima over their distinct sizes.

    A leaf is a heap of (net bytes, op); an entry is stale, and dropped when it surfaces, once the op has run or its
    net bytes have changed.  Inner node k holds the least live entry below it, children 2k and 2k + 1.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._distinct = sorted(set(sizes))
        leaf_of = {size: leaf for leaf, size in enumerate(self._distinct)}
        self._leaf = [leaf_of[size] for size in sizes]
        self._net: dict[int, int] = {}
        self._width = 1 << (len(self._distinct) - 1).bit_length()
        self._heaps: list[list[Key]] = [[] for _ in self._distinct]
        self._least = [_NOTHING] * (2 * self._width)

    def __contains__(self, op: int) -> bool:
        return op in self._net

    def put(self, op: int, net: int) -> None:
        """Add an op, or change its net bytes."""
        self._net[op] = net
        heapq.heappush(self._heaps[self._leaf[op]], (net, op))
        self._refresh(self._leaf[op])

    def take(self, gap: int) -> int:
        """Remove and return the op that runs next when `gap` more bytes fit under the peak so far."""
        best = self._least_of_first(bisect_right(self._distinct, gap))
        if best is _NOTHING:
            best = self._least[self._width + self._first_leaf()]
        op = best[1]
        del self._net[op]
        self._refresh(self._leaf[op])
        return op

    def _refresh(self, leaf: int) -> None:
        heap = self._heaps[leaf]
        while heap and self._net.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        node = self._width + leaf
        self._least[node] = heap[0] if heap else _NOTHING
        while node > 1:
            node >>= 1
            self._least[node] = min(self._least[2 * node], self._least[2 * node + 1])

    def _least_of_first(self, num_leaves: int) -> Key:
        """The least entry of the leaves below `num_leaves`."""
        best = _NOTHING
        low, high = self._width, self._width + num_leaves
        while low < high:
            if low & 1:
                best = min(best, self._least[low])
                low += 1
            if high & 1:
                high -= 1
                best = min(best, self._least[high])
            low >>= 1
            high >>= 1
        return best

    def _first_leaf(self) -> int:
        """The leaf of the smallest size that has an entry."""
        node = 1
        while node < self._width:
            node *= 2
            if self._least[node] is _NOTHING:
                node += 1
        return node - self._width

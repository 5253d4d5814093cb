"""Edges that keep every parallel execution of a graph under a limit: few, never a cycle, with a proof.

    limit 12, order a, b, c, d        worst case {b, c} running, 14 bytes:
        ┌──> b ──┐                    b comes first in the order, c is the last that has started, so c waits for b
     a ─┤    :   ├─> d
        └──> c ──┘                    one edge b -> c; now at most 10 bytes

Every edge follows one order of the ops, so there is no cycle; in the end all ops would wait for each other, and hold
what that order needs: it always ends when the limit is at least the peak of the order.  (Marchal et al. 2018 call this
RespectOrder; they prove that a fewest set of edges is NP-hard to find.)  Edges that turn out to be unnecessary are
taken away again, the last first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from memsched.core.execution import Execution, WorstCase, bytes_held
from memsched.core.graph import MAX_BYTES, Graph
from memsched.core.peak import peak_bytes
from memsched.core.sizes import InputError
from memsched.search.exact.problem import bits
from memsched.search.parallel.worst import relaxed_worst_case, searched_worst_case

__all__ = ["Limited", "critical_path_bytes", "limiting_edges"]

_MOST_TRIED = 64
"""Ops that are tried as the one that is waited for."""

Edge = tuple[int, int]
"""(op that must have completed, op that waits for it)."""


@dataclass(frozen=True, slots=True)
class Limited:
    """Edges under which no execution exceeds the limit, and what they cost.

    worst: the worst case with the edges.
    critical_path, critical_path_before: bytes that the ops of the longest path touch, with the edges and without: an
        op's time is taken as the bytes that it reads and writes.
    """

    edges: tuple[Edge, ...]
    worst: WorstCase
    critical_path: int
    critical_path_before: int


def limiting_edges(
    graph: Graph, order: Sequence[int], limit: int, parallel: int | None, seconds: float = 10.0
) -> Limited:
    """Edges along `order` with which no execution of at most `parallel` ops at once holds more than `limit` bytes.

    seconds: of search, in CP-SAT's deterministic time, for all questions together; with none of it left an edge may be
    added that is not needed.
    Raises InputError when the order itself needs more than the limit.
    """
    needed = peak_bytes(graph, order)
    if needed > limit:
        raise InputError(f"limit: {limit} bytes, but the order needs {needed} one op at a time")
    edges: list[Edge] = []
    seconds_left = seconds
    while True:
        restricted = graph.with_order_edges(edges)
        worst = relaxed_worst_case(restricted, parallel)
        if worst.bound > limit >= worst.held and seconds_left > 0:
            share = min(seconds_left, seconds / 4)
            worst = searched_worst_case(restricted, worst, share)
            seconds_left -= share
        if worst.bound <= limit:
            break
        edges.append(_edge_against(restricted, worst.execution, order, limit))
    edges, worst = _without_unnecessary(graph, edges, limit, worst)
    kept = graph.with_order_edges(edges)
    return Limited(tuple(edges), worst, critical_path_bytes(kept), critical_path_bytes(graph))


def critical_path_bytes(graph: Graph) -> int:
    """Bytes that the ops of the longest path read, write and use as workspace: a lower bound on parallel time."""
    longest = [0] * len(graph)
    for op in graph.topological_order:
        touched = graph.ops[op].workspace + graph.output_bytes[op]
        touched += sum(graph.buffers[index].size for index in graph.inputs_of[op])
        longest[op] = touched + max((longest[before] for before in graph.predecessors[op]), default=0)
    return max(longest)


def _edge_against(graph: Graph, execution: Execution, order: Sequence[int], limit: int) -> Edge:
    """An edge along the order that the execution does not keep.

    The last op that has started waits: for the first op with which, completed, the rest would hold at most `limit`
    bytes, or else for the one that leaves the fewest.  Where the execution follows the order (it came out of a
    relaxation, and does not hold as much as that says) two ops become neighbors for good, in its part of the order
    first: the relaxation is exact when all are.
    """
    started, completed = set(execution.started), set(execution.completed)
    at = max((position for position, op in enumerate(order) if op in started), default=0)
    waiting = [op for op in order[:at] if op not in completed]
    if not waiting:
        pairs = [pair for pair in itertools.pairwise(order) if not graph.ancestors[pair[1]] >> pair[0] & 1]
        inside = [pair for pair in pairs if pair[1] in started]
        return inside[-1] if inside else pairs[0]
    best = waiting[0], MAX_BYTES + 1
    for op in waiting[:: -(-len(waiting) // _MOST_TRIED)]:
        done = completed.union(bits(graph.ancestors[op]), (op,))
        left = bytes_held(graph, Execution(tuple(done), tuple(done | started)))
        if left < best[1]:
            best = op, left
        if left <= limit:
            break
    return best[0], order[at]


def _without_unnecessary(graph: Graph, edges: list[Edge], limit: int, worst: WorstCase) -> tuple[list[Edge], WorstCase]:
    """The edges that minimum cuts do not show to be unnecessary, and the worst case with them; the last goes first."""
    for edge in reversed(edges):
        fewer = [other for other in edges if other != edge]
        without = relaxed_worst_case(graph.with_order_edges(fewer), worst.parallel)
        if without.bound <= limit:
            edges, worst = fewer, without
    return edges, worst

"""What a graph states about orders, and the check that an order keeps to it.

    buffer a: op0 writes, op1 reads       precedence (op0, op1)
    order edge (op1, op2)                 precedence (op1, op2)
    order 0, 1, 2                         a permutation of the ops that respects both: valid

This is the slow, obvious reading of a graph on which every other checker of this folder rests; it shares no code with
`Graph.predecessors`, which the solvers use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memsched.check.error import CheckError
from memsched.core.graph import Graph

__all__ = ["check_made_for", "check_order", "network_of", "precedences_of"]


def check_made_for(graph: Graph, what: str, num_ops: int, digest: str) -> None:
    """Raises CheckError unless `what`, out of a file, was made for a graph of that many ops and that digest, if any."""
    if num_ops != len(graph.ops):
        raise CheckError(f"ops: the {what} has {num_ops}, the graph has {len(graph.ops)}")
    if digest and digest != graph.digest:
        raise CheckError(f"graph_digest: the {what} was made for another graph")


def check_order(graph: Graph, order: Sequence[int]) -> None:
    """Raises CheckError unless `order` is a topological order of `graph`."""
    position: dict[int, int] = {}
    for at, op in enumerate(order):
        if not isinstance(op, int) or not 0 <= op < len(graph.ops):
            raise CheckError(f"order: entry {at} is {op!r}, not an op (there are {len(graph.ops)})")
        if op in position:
            raise CheckError(f"order: op {graph.ops[op].name!r} occurs twice")
        position[op] = at
    if len(position) < len(graph.ops):
        missing = next(op for op in range(len(graph.ops)) if op not in position)
        raise CheckError(f"order: op {graph.ops[missing].name!r} is missing")
    for before, after in precedences_of(graph):
        if position[before] > position[after]:
            names = graph.ops[before].name, graph.ops[after].name
            raise CheckError(f"order: op {names[1]!r} runs before {names[0]!r}, which it needs")


def precedences_of(graph: Graph) -> Iterator[tuple[int, int]]:
    """Every (before, after) that the graph states, from its buffers and order edges."""
    for buffer in graph.buffers:
        if buffer.producer is not None:
            for consumer in buffer.consumers:
                yield buffer.producer, consumer
    yield from graph.order_edges


def network_of(graph: Graph) -> list[tuple[int, int]]:
    """The distinct precedences, and the arcs of the virtual source n and the virtual sink n + 1."""
    arcs = set(precedences_of(graph))
    with_before = {after for _, after in arcs}
    with_after = {before for before, _ in arcs}
    source, sink = len(graph.ops), len(graph.ops) + 1
    ends = [(source, op) for op in range(source) if op not in with_before]
    ends += [(op, sink) for op in range(source) if op not in with_after]
    return [*arcs, *ends]

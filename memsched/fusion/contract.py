"""A graph in which groups of ops are one op each: what is left to order once the fusions are chosen.

    a ──X──> b ──Y──> c        groups (a b) (c)        ab ──Y──> c        X is never allocated: only ab reads it
      ──────────Z────>                                    ──Z──>

The peak of an order of the contracted graph is what `memsched.fusion.groups` keeps up to date incrementally; here it
is built in one go, for searches that reorder everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from memsched.core.graph import Buffer, Graph, GraphError, Op

__all__ = ["contract", "kernels_of"]


def contract(graph: Graph, groups: Sequence[Sequence[int]]) -> Graph:
    """The graph whose op i is `groups[i]`; every op of `graph` is in exactly one group.

    A group needs the largest workspace of its ops; a buffer that only its own group reads is not allocated.

    Raises:
        GraphError: two groups would have to run before each other.
    """
    group_of = [0] * len(graph)
    for index, members in enumerate(groups):
        for op in members:
            group_of[op] = index
    buffers = []
    for buffer in graph.buffers:
        producer = None if buffer.producer is None else group_of[buffer.producer]
        readers = {group_of[op] for op in buffer.consumers}
        if producer is not None and readers == {producer} and not buffer.kept:
            continue
        readers.discard(-1 if producer is None else producer)
        buffers.append(Buffer(buffer.name, buffer.size, producer, tuple(sorted(readers)), buffer.kept))
    edges = {(group_of[before], group_of[op]) for op, befores in enumerate(graph.predecessors) for before in befores}
    ops = tuple(_fused_op(graph, members) for members in groups)
    order_edges = tuple(sorted(edge for edge in edges if edge[0] != edge[1]))
    return Graph(graph.name, ops, tuple(buffers), order_edges, graph.torch, graph.device, "postfusion")


def _fused_op(graph: Graph, members: Sequence[int]) -> Op:
    if len(members) == 1:
        return graph.ops[members[0]]
    ops = [graph.ops[op] for op in members]
    return Op("_".join(op.name for op in ops), "FusedSchedulerNode", max(op.workspace for op in ops))


def kernels_of(graph: Graph, fused: Graph) -> list[list[int]]:
    """The ops of `graph`, before fusion, that each op of `fused`, after it, was made of: Inductor joins their names.

    Raises:
        GraphError: `fused` has an op whose name is not made of names of `graph`, or leaves one out.
    """
    index = {op.name: at for at, op in enumerate(graph.ops)}
    kernels = [_split_name(op.name, index) for op in fused.ops]
    for op, members in zip(fused.ops, kernels, strict=True):
        if not members:
            raise GraphError(f"ops: {op.name!r} is not made of ops of the graph before fusion")
    found = sorted(op for members in kernels for op in members)
    if found != list(range(len(graph))):
        missing = next((op.name for at, op in enumerate(graph.ops) if found.count(at) != 1), "")
        raise GraphError(f"ops: {missing!r} of the graph before fusion is not in exactly one op after it")
    return kernels


def _split_name(name: str, index: dict[str, int]) -> list[int]:
    """The ops whose names, joined by "_", are `name`; none when it cannot be split.  Names may hold "_" themselves."""
    members, word = [], ""
    for part in name.split("_"):
        word = f"{word}_{part}" if word else part
        if word in index:
            members.append(index[word])
            word = ""
    return [] if word else members

"""Which outputs are written over a dying input, while ops are being fused.

    scores ──> a: row maxima ──┐            b alone writes p over the scores, which die there: one storage
       └─────────────────────> b ──> p      ab in one kernel reads whole rows before it writes: two storages

An output is written over an input that it may take over (`memsched.storage.pieces.Reuse`) when the op that writes it is
the last reader.  Another reader in the same kernel prevents it, unless it reads the same elements before.  Inside of a
kernel the storage is handed on: x ──> t ──> y with t local writes y over x.  In C++ not beside a reduction: loops are
fused at an outer level, and t is a row (`memsched.inductor.storages.local_buffers`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from memsched.core.graph import Buffer, Graph

__all__ = ["InPlace", "Overwrite", "shared_storages"]


@dataclass(frozen=True, slots=True)
class Overwrite:
    """input: a buffer that may be written over; beside: its other readers that may be in the same kernel."""

    input: int
    beside: frozenset[int] = frozenset()


class InPlace:
    """What may be written over what in a graph before fusion.

    over: for an output, what it may be written over; outputs and inputs are indices of the graph's buffers, and no
        input is taken twice.
    reductions: ops that make loops of a kernel which keep only rows of what is local, so that nothing is handed on.
    """

    def __init__(self, graph: Graph, over: Mapping[int, Overwrite], reductions: Collection[int] = ()) -> None:
        self._buffers = graph.buffers
        self._over = over
        self._reductions = tuple(reductions)

    def __bool__(self) -> bool:
        return bool(self._over)

    def taken_over(self, output: int, group_of: Callable[[int], int]) -> int | None:
        """What the kernel of `output` writes it over once all other kernels have read that; None for a new storage.

        group_of: the kernel of an op.
        """
        producer = self._buffers[output].producer
        kernel = None if producer is None else group_of(producer)
        while (over := self._over.get(output)) is not None:
            writer, buffer = self._buffers[output].producer, self._buffers[over.input]
            others = {op for op in buffer.consumers if op != writer}
            if any(group_of(op) == kernel for op in others - over.beside):
                return None
            if buffer.producer is None or group_of(buffer.producer) != kernel:
                return over.input
            if buffer.kept or any(group_of(op) != kernel for op in others):
                return None
            if any(group_of(op) == kernel for op in self._reductions):
                return None
            output = over.input
        return None


def shared_storages(graph: Graph, over: Iterable[tuple[str, str]]) -> Graph:
    """`graph` in which an output and the input that it is written over, by name, are one buffer.

    Only where every order does so: all other readers of the input are ancestors of the op.
    """
    position = {buffer.name: at for at, buffer in enumerate(graph.buffers)}
    root = list(range(len(graph.buffers)))
    for output, source in sorted((position[output], position[source]) for output, source in over):
        producer = graph.buffers[output].producer
        readers = graph.buffers[source].consumers
        if producer is not None and all(op == producer or graph.ancestors[producer] >> op & 1 for op in readers):
            root[output] = source
    members: dict[int, list[Buffer]] = {}
    for at, buffer in enumerate(graph.buffers):
        while root[at] != at:
            at = root[at]
        members.setdefault(at, []).append(buffer)
    buffers = tuple(_one(graph.buffers[at], some) for at, some in members.items())
    return replace(graph, buffers=buffers, order_edges=graph.precedences)


def _one(first: Buffer, members: Iterable[Buffer]) -> Buffer:
    """The storage of `members`, which `first` begins."""
    touching = {op for one in members for op in (*one.consumers, one.producer) if op is not None}
    consumers = tuple(sorted(touching - {first.producer}))
    size, kept = max(one.size for one in members), any(one.kept for one in members)
    return Buffer(first.name, size, first.producer, consumers, kept)

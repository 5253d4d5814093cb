"""An order of least peak for a series-parallel graph: from bytes to (hump, drop) and back.

`modular_problem` turns buffers into the hump and the drop of each op, given who frees each buffer.  That is exact
when the freer of a buffer is its last consumer in every order; with any other consumer as freer the memory is
underestimated at every point of every order, so the least peak is a lower bound (`shared.py`).

    a writes X (4 bytes) for b and c                          freer of X    drop of b    drop of c
    a ──X──> b ──Y──> d                                       b             4            0
    └──X───> c ──Z────┘                                       c             0            4
                                                              b and c       2            2

Several freers of one buffer share it in whole bytes, the first ones taking what is left over: until all of them have
run not all of it is freed, and the true memory frees none of it, so this underestimates too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.series_parallel.realizer import realizer_of
from memsched.series_parallel.segments import flatten, segments_of
from memsched.series_parallel.tree import Tree

__all__ = [
    "Freers",
    "ModularProblem",
    "designated_freers",
    "maximal_consumers",
    "modular_problem",
    "order_series_parallel",
]

Freers = Sequence[Sequence[int]]
"""For each buffer the ops that free it in equal shares; none for a buffer that is kept or that nobody reads."""


@dataclass(frozen=True, slots=True)
class ModularProblem:
    """What each op adds (`humps`) and then frees (`drops`), by op, and what is live at the `start`; bytes."""

    start: int
    humps: tuple[int, ...]
    drops: tuple[int, ...]

    def peak_of(self, order: Iterable[int]) -> int:
        """The peak of `order` when every buffer is freed by its freers; bytes."""
        level = peak = self.start
        for op in order:
            peak = max(peak, level + self.humps[op])
            level += self.humps[op] - self.drops[op]
        return peak


def maximal_consumers(graph: Graph, tree: Tree) -> list[tuple[int, ...]]:
    """For each buffer its consumers that precede no other one: one of them reads it last.  None for a kept buffer."""
    maximal = [() if buffer.kept else buffer.consumers for buffer in graph.buffers]
    contested = [index for index, consumers in enumerate(maximal) if len(consumers) > 1]
    if contested:
        realizer = realizer_of(tree, len(graph.ops))
        for index in contested:
            maximal[index] = realizer.maximal(maximal[index])
    return maximal


def modular_problem(graph: Graph, freers: Freers) -> ModularProblem:
    """The humps and drops of the ops of `graph` when `freers` free its buffers.  Linear."""
    drops = [op.workspace for op in graph.ops]
    humps = list(drops)
    for buffer, freed_by in zip(graph.buffers, freers, strict=True):
        size = buffer.size
        if buffer.producer is not None:
            humps[buffer.producer] += size
            if not buffer.consumers and not buffer.kept:
                drops[buffer.producer] += size
        if len(freed_by) == 1:
            drops[freed_by[0]] += size
        elif freed_by:
            share, rest = divmod(size, len(freed_by))
            for at, op in enumerate(freed_by):
                drops[op] += share + (at < rest)
    return ModularProblem(graph.start_bytes, tuple(humps), tuple(drops))


def designated_freers(graph: Graph, tree: Tree, freed_by: Iterable[tuple[int, int]]) -> Freers:
    """The freers that `TreeCertificate.freed_by` means: the (buffer, op) that are named, else the one maximal consumer.

    Raises:
        ValueError: a buffer has several maximal consumers and none is named, or an op that does not read it is named.
    """
    named: dict[int, list[int]] = {}
    for index, op in freed_by:
        if not 0 <= index < len(graph.buffers) or op not in graph.buffers[index].consumers:
            raise ValueError(f"freed_by: op {op} does not read buffer {index}")
        named.setdefault(index, []).append(op)
    freers = []
    for index, maximal in enumerate(maximal_consumers(graph, tree)):
        if len(maximal) > 1 and index not in named:
            raise ValueError(f"freed_by: buffer {graph.buffers[index].name!r} has {len(maximal)} maximal consumers")
        freers.append(tuple(named.get(index, maximal)))
    return freers


def order_series_parallel(
    graph: Graph, tree: Tree, freed_by: Iterable[tuple[int, int]] = ()
) -> tuple[tuple[int, ...], int]:
    """An order of least peak of the modular problem, and that peak, a lower bound for every order of `graph`; bytes.

    tree: the decomposition of `graph` (`recognize`).
    freed_by: (buffer, op) for each buffer with several maximal consumers; without any the order is optimal.

    O(n log^2 n).  Source: Kayaaslan, Lambert, Marchal, Ucar 2018; Abdel-Wahab, Kameda 1978.

    Raises:
        ValueError: `freed_by` does not fit the graph.
    """
    problem = modular_problem(graph, designated_freers(graph, tree, freed_by))
    order = order_of_least_peak(tree, problem)
    return order, problem.peak_of(order)


def order_of_least_peak(tree: Tree, problem: ModularProblem) -> tuple[int, ...]:
    """The ops of `tree` in an order of least peak."""
    return tuple(flatten([segment.rope for segment in segments_of(tree, problem.humps, problem.drops)]))

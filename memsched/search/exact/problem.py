"""The reduced instance on which exact search works: nodes with a hump and a delta, and the truly shared tensors.

Running node v when the down-set S has run needs `memory(S) + hump(v)` bytes and leaves `memory(S + v)` behind:

    hump(v)    outputs and workspace: what is added while v runs
    delta(v)   outputs, less outputs that nobody reads, less the buffers that v is known to free
    memory(S)  = base + sum of delta over S - sum of the sizes of the shared tensors whose readers are all in S

A buffer whose consumers have one *maximal* member (all others are its ancestors) is always freed there, so it becomes
a negative delta.  Only a buffer with several, incomparable, maximal consumers is *truly shared*: which of them frees it
depends on the order.  Buffers of no bytes and kept buffers leave nothing behind but their allocation.

    X: a -> b, c    b -> c  given    X is freed by c          delta(c) -= |X|
    X: a -> b, c    b, c unordered   X is truly shared        shared (|X|, {b, c})

The subtracted sum only grows faster as S grows (it is supermodular), so memory is *submodular* on the down-sets:
memory(S | T) + memory(S & T) <= memory(S) + memory(T).  Every commit and every cut in this package rests on that.

Node sets are bit masks.  A node stands for a *rope* of original ops that run one after the other; a kernel has fewer
nodes with longer ropes.  Units: bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd

from memsched.core.graph import Graph
from memsched.search.cuts.closure import ClosureNetwork, minimum_closure

__all__ = ["Problem", "SharedTensor", "bits", "mask_of", "mask_of_many"]


@dataclass(frozen=True, slots=True)
class SharedTensor:
    """`size` bytes that are freed when every node of the mask `readers` (two or more, incomparable) has run."""

    size: int
    readers: int


@dataclass(frozen=True)
class Problem:
    """Nodes in a fixed numbering; `predecessors` are direct ones, as masks, without transitive edges.

    `base` bytes are live before anything runs.  `ropes` are the original ops of each node (empty for a dummy).
    """

    predecessors: tuple[int, ...]
    humps: tuple[int, ...]
    deltas: tuple[int, ...]
    shared: tuple[SharedTensor, ...]
    base: int
    ropes: tuple[tuple[int, ...], ...]

    @classmethod
    def from_graph(cls, graph: Graph) -> Problem:
        """One node for each op of `graph`, with the same number."""
        num_ops = len(graph.ops)
        ancestors = ancestors_of(tuple(mask_of(before) for before in graph.predecessors), graph.topological_order)
        deltas = list(graph.output_bytes)
        readers_of: dict[int, int] = {}
        for buffer in graph.buffers:
            if buffer.kept or not buffer.size:
                continue
            if not buffer.consumers:
                assert buffer.producer is not None  # checked by Graph
                deltas[buffer.producer] -= buffer.size
                continue
            covered = 0
            for consumer in buffer.consumers:
                covered |= ancestors[consumer]
            maximal = mask_of(buffer.consumers) & ~covered
            if maximal & (maximal - 1):
                readers_of[maximal] = readers_of.get(maximal, 0) + buffer.size
            else:
                deltas[maximal.bit_length() - 1] -= buffer.size
        return cls(
            predecessors=tuple(_without_transitive(before, ancestors) for before in map(mask_of, graph.predecessors)),
            humps=tuple(size + op.workspace for size, op in zip(graph.output_bytes, graph.ops, strict=True)),
            deltas=tuple(deltas),
            shared=tuple(SharedTensor(size, readers) for readers, size in readers_of.items()),
            base=graph.start_bytes,
            ropes=tuple((op,) for op in range(num_ops)),
        )

    def __len__(self) -> int:
        return len(self.humps)

    def with_precedences(self, ancestors: Sequence[int]) -> Problem:
        """The same nodes with more precedences, given as a transitive relation: for each node all that come before."""
        direct = tuple(_without_transitive(before, ancestors) for before in ancestors)
        return Problem(direct, self.humps, self.deltas, self.shared, self.base, self.ropes)

    @cached_property
    def granularity(self) -> int:
        """Every level and every peak differs from `base` by a multiple of this many bytes (0: they never differ)."""
        return gcd(*self.humps, *self.deltas, *(tensor.size for tensor in self.shared))

    def round_up(self, bound: int) -> int:
        """The least possible peak that is not below `bound`."""
        return bound + (self.base - bound) % self.granularity if self.granularity else max(bound, self.base)

    @cached_property
    def full(self) -> int:
        """The mask of all nodes."""
        return (1 << len(self)) - 1

    @cached_property
    def successors(self) -> tuple[int, ...]:
        """Direct successors of each node, as masks."""
        after = [0] * len(self)
        for node, before in enumerate(self.predecessors):
            for predecessor in bits(before):
                after[predecessor] |= 1 << node
        return tuple(after)

    @cached_property
    def topological_order(self) -> tuple[int, ...]:
        """Some legal order; the numbering itself when it is one."""
        if all(not before >> node for node, before in enumerate(self.predecessors)):
            return tuple(range(len(self)))
        missing = [before.bit_count() for before in self.predecessors]
        ready = [node for node in range(len(self)) if not missing[node]]
        for node in ready:
            for successor in bits(self.successors[node]):
                missing[successor] -= 1
                if not missing[successor]:
                    ready.append(successor)
        return tuple(ready)

    @cached_property
    def ancestors(self) -> tuple[int, ...]:
        """All nodes that must run before each node, as masks."""
        return ancestors_of(self.predecessors, self.topological_order)

    @cached_property
    def descendants(self) -> tuple[int, ...]:
        """All nodes that must run after each node, as masks."""
        return ancestors_of(self.successors, self.topological_order[::-1])

    @cached_property
    def shared_of(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each node the (size, readers) of the shared tensors that it reads."""
        lists: list[list[tuple[int, int]]] = [[] for _ in range(len(self))]
        for tensor in self.shared:
            for reader in bits(tensor.readers):
                lists[reader].append((tensor.size, tensor.readers))
        return tuple(map(tuple, lists))

    @cached_property
    def end(self) -> int:
        """Bytes that are live after everything has run."""
        return self.memory(self.full)

    def memory(self, done: int) -> int:
        """Live bytes after the down-set `done`."""
        total = self.base + sum(self.deltas[node] for node in bits(done))
        return total - sum(tensor.size for tensor in self.shared if not tensor.readers & ~done)

    def step(self, done: int, level: int, node: int) -> tuple[int, int]:
        """(step peak, level after) when `node` runs after the down-set `done` that leaves `level` bytes."""
        after = level + self.deltas[node]
        done |= 1 << node
        for size, readers in self.shared_of[node]:
            if not readers & ~done:
                after -= size
        return level + self.humps[node], after

    def step_peaks(self, order: Sequence[int]) -> list[int]:
        """Bytes that each node of a topological order needs while it runs, in that order."""
        peaks: list[int] = []
        level = self.base
        done = 0
        for node in order:
            step_peak, level = self.step(done, level, node)
            peaks.append(step_peak)
            done |= 1 << node
        return peaks

    def peak(self, order: Sequence[int]) -> int:
        """Peak of a topological order of the nodes; what is reported is judged by `core.peak` on the lifted order."""
        return max([self.base, *self.step_peaks(order)])

    def lift(self, order: Sequence[int]) -> tuple[int, ...]:
        """The order of the original ops that an order of the nodes stands for."""
        return tuple(op for node in order for op in self.ropes[node])

    def closure_network(self) -> ClosureNetwork:
        """A network whose closures are the down-sets with the tensors that they free; weight = memory - base.

        Nodes keep their numbers, the shared tensors follow.
        """
        weights = [*self.deltas, *(-tensor.size for tensor in self.shared)]
        requires = [(node, before) for node, mask in enumerate(self.predecessors) for before in bits(mask)]
        for index, tensor in enumerate(self.shared, start=len(self)):
            requires.extend((index, reader) for reader in bits(tensor.readers))
        return ClosureNetwork(weights, requires)

    def lowest_down_set(self, inner: int, outer: int, *, largest: bool = False) -> int:
        """Of the down-sets between `inner` and `outer` (down-sets themselves) the one with the fewest live bytes.

        The smallest such set, or the largest one.  Maximum flow over the nodes and shared tensors between the two.
        """
        between = outer & ~inner
        index = {node: at for at, node in enumerate(bits(between))}
        weights = [self.deltas[node] for node in index]
        requires = [
            (at, index[before]) for node, at in index.items() for before in bits(self.predecessors[node] & between)
        ]
        for tensor in self.shared:
            if not tensor.readers & ~outer and tensor.readers & between:
                requires.extend((len(weights), index[reader]) for reader in bits(tensor.readers & between))
                weights.append(-tensor.size)
        if not any(weight < 0 for weight in weights) and not largest:
            return inner
        chosen = set(minimum_closure(weights, requires, largest=largest))
        return inner | mask_of(node for node, at in index.items() if at in chosen)


def bits(mask: int) -> Iterator[int]:
    """The members of a mask, increasing."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def mask_of_many(nodes: Iterable[int], size: int) -> int:
    """The mask of those of many nodes that are below `size`: linear, where `mask_of` takes a long sum for each."""
    digits = bytearray(b"0") * max(1, size)
    for node in nodes:
        if node < size:
            digits[-1 - node] = ord("1")
    return int(digits, 2)


def mask_of(nodes: Iterable[int]) -> int:
    """The mask of some nodes."""
    mask = 0
    for node in nodes:
        mask |= 1 << node
    return mask


def ancestors_of(predecessors: Sequence[int], topological_order: Sequence[int]) -> tuple[int, ...]:
    """The transitive closure of direct predecessors, as masks."""
    above = [0] * len(predecessors)
    for node in topological_order:
        mask = before = predecessors[node]
        for predecessor in bits(before):
            mask |= above[predecessor]
        above[node] = mask
    return tuple(above)


def _without_transitive(before: int, ancestors: Sequence[int]) -> int:
    """The members of `before` that are not ancestors of another member; `ancestors` is transitive.

    What a member covers is not looked at: where the numbering is nearly topological, that leaves the direct ones.
    """
    covered, rest = 0, before
    while rest:
        last = rest.bit_length() - 1
        covered |= ancestors[last]
        rest &= ~(covered | 1 << last)
    return before & ~covered

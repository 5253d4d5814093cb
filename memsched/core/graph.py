"""The graph that memsched orders: ops, the buffers between them, and nothing else.

An *op* is one scheduler node (one kernel launch, or a few that run as one).  A *buffer* is one storage: an op
produces it, ops consume it, and it is freed after its last consumer has run, unless it is *kept* (a graph output).
A buffer without a producer is a graph input that dies inside the graph: it is live from the start.
An *order edge* is a precedence that no buffer implies (a mutation must wait for the readers of the old value).

    Graph("diamond",
        ops     = (a, b, c, d)                       a ──X──> b ──Y──> d
        buffers = (X: 4 bytes, a -> b, c             │                 ▲
                   Y: 1 byte,  b -> d                └──X──> c ──Z─────┘
                   Z: 2 bytes, c -> d))

Ops are named by their index in the incoming order; names are only for people.  Everything here is frozen plain data,
checked once at construction, so that algorithms may trust it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

__all__ = ["MAX_BYTES", "Buffer", "Graph", "GraphError", "Op"]

MAX_BYTES = 2**62
"""Largest size, and largest sum of sizes, that is accepted: every solver computes in signed 64-bit integers."""


class GraphError(ValueError):
    """A graph that is not one: the message is one line that names the offending op, buffer or edge."""


@dataclass(frozen=True, slots=True)
class Op:
    """One node of the scheduler.

    `workspace` is the number of bytes that live only while the op runs.
    """

    name: str
    kind: str = ""
    workspace: int = 0


@dataclass(frozen=True, slots=True)
class Buffer:
    """One storage of `size` bytes.

    `producer` is the index of the op that allocates it, or None for an input that is live from the start.
    `consumers` are the distinct indices of the ops that read it, in increasing order.
    `kept` buffers are never freed: the caller holds them, or they are outputs.
    """

    name: str
    size: int
    producer: int | None
    consumers: tuple[int, ...] = ()
    kept: bool = False


@dataclass(frozen=True)
class Graph:
    """Ops in the incoming order, the buffers between them, and the order edges (before, after).

    Raises:
        GraphError: sizes that are negative or too large, an unknown op index, a duplicate name, a cycle, no op at all.
    """

    name: str
    ops: tuple[Op, ...]
    buffers: tuple[Buffer, ...] = ()
    order_edges: tuple[tuple[int, int], ...] = ()
    torch: str = ""
    device: str = ""
    stage: str = ""
    stock_peaks: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_ops(self)
        _check_buffers(self)
        _check_edges(self)
        _ = self.topological_order  # raises on a cycle

    def __len__(self) -> int:
        return len(self.ops)

    @cached_property
    def precedences(self) -> tuple[tuple[int, int], ...]:
        """Every (before, after) pair that buffers or order edges state, sorted."""
        return tuple(sorted((before, op) for op, some in enumerate(self.predecessors) for before in some))

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        """For each op the ops that must run before it, distinct and increasing (direct edges only)."""
        before: list[set[int]] = [set() for _ in self.ops]
        for buffer in self.buffers:
            if buffer.producer is not None:
                for consumer in buffer.consumers:
                    before[consumer].add(buffer.producer)
        for first, second in self.order_edges:
            before[second].add(first)
        return tuple(tuple(sorted(ops)) for ops in before)

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        """For each op the ops that must run after it, distinct and increasing (direct edges only)."""
        after: list[list[int]] = [[] for _ in self.ops]
        for op, before in enumerate(self.predecessors):
            for predecessor in before:
                after[predecessor].append(op)
        return tuple(map(tuple, after))

    @cached_property
    def outputs_of(self) -> tuple[tuple[int, ...], ...]:
        """For each op the indices of the buffers that it produces."""
        outputs: list[list[int]] = [[] for _ in self.ops]
        for index, buffer in enumerate(self.buffers):
            if buffer.producer is not None:
                outputs[buffer.producer].append(index)
        return tuple(map(tuple, outputs))

    @cached_property
    def inputs_of(self) -> tuple[tuple[int, ...], ...]:
        """For each op the indices of the buffers that it reads."""
        inputs: list[list[int]] = [[] for _ in self.ops]
        for index, buffer in enumerate(self.buffers):
            for consumer in buffer.consumers:
                inputs[consumer].append(index)
        return tuple(map(tuple, inputs))

    @cached_property
    def output_bytes(self) -> tuple[int, ...]:
        """Bytes that each op allocates for its outputs."""
        return tuple(sum(self.buffers[b].size for b in outputs) for outputs in self.outputs_of)

    @cached_property
    def start_bytes(self) -> int:
        """Bytes that are live before the first op: every buffer without a producer."""
        return sum(buffer.size for buffer in self.buffers if buffer.producer is None)

    @cached_property
    def end_bytes(self) -> int:
        """Bytes that are live after the last op: every kept buffer."""
        return sum(buffer.size for buffer in self.buffers if buffer.kept)

    @cached_property
    def topological_order(self) -> tuple[int, ...]:
        """The incoming order when it is legal, else the first legal one by index (Kahn).

        Raises:
            GraphError: the graph has a cycle.
        """
        if all(not before or before[-1] < op for op, before in enumerate(self.predecessors)):
            return tuple(range(len(self.ops)))
        missing = [len(before) for before in self.predecessors]
        ready = [op for op, count in enumerate(missing) if not count]
        order: list[int] = []
        while ready:
            op = ready.pop()
            order.append(op)
            for successor in self.successors[op]:
                missing[successor] -= 1
                if not missing[successor]:
                    ready.append(successor)
        if len(order) < len(self.ops):
            stuck = next(op for op, count in enumerate(missing) if count)
            raise GraphError(f"op {self.ops[stuck].name!r} is on, or behind, a cycle")
        return tuple(order)

    @cached_property
    def ancestors(self) -> tuple[int, ...]:
        """For each op the set of its ancestors, as a bit mask; n^2/8 bytes."""
        found = [0] * len(self)
        for op in self.topological_order:
            for before in self.predecessors[op]:
                found[op] |= found[before] | 1 << before
        return tuple(found)

    @cached_property
    def descendants(self) -> tuple[int, ...]:
        """For each op the set of its descendants, as a bit mask; n^2/8 bytes."""
        found = [0] * len(self)
        for op in reversed(self.topological_order):
            for after in self.successors[op]:
                found[op] |= found[after] | 1 << after
        return tuple(found)

    def with_order_edges(self, edges: Iterable[tuple[int, int]]) -> Graph:
        """The same graph with these edges (before, after) beside its own; raises GraphError when they close a cycle."""
        return replace(self, order_edges=(*self.order_edges, *edges))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides an order (sizes, edges, workspaces), without any name."""
        ops = [op.workspace for op in self.ops]
        buffers = [(b.size, b.producer, b.consumers, b.kept) for b in self.buffers]
        return hashlib.sha256(repr((ops, buffers, sorted(set(self.order_edges)))).encode()).hexdigest()


def _check_ops(graph: Graph) -> None:
    if not graph.ops:
        raise GraphError("ops: the graph has no op")
    seen: set[str] = set()
    for op in graph.ops:
        if op.name in seen:
            raise GraphError(f"ops: the name {op.name!r} occurs twice")
        seen.add(op.name)
        _check_size(f"op {op.name!r}: workspace", op.workspace)


def _check_buffers(graph: Graph) -> None:
    seen: set[str] = set()
    total = sum(op.workspace for op in graph.ops)
    for buffer in graph.buffers:
        where = f"buffer {buffer.name!r}"
        if buffer.name in seen:
            raise GraphError(f"buffers: the name {buffer.name!r} occurs twice")
        seen.add(buffer.name)
        _check_size(f"{where}: size", buffer.size)
        total += buffer.size
        if buffer.producer is None and not buffer.consumers:
            raise GraphError(f"{where} has neither a producer nor a consumer")
        if buffer.producer is not None:
            _check_index(f"{where}: producer", buffer.producer, graph)
        for consumer in buffer.consumers:
            _check_index(f"{where}: consumer", consumer, graph)
        if buffer.producer in buffer.consumers:
            raise GraphError(f"{where}: op {buffer.producer} reads its own output")
        if any(a >= b for a, b in zip(buffer.consumers, buffer.consumers[1:], strict=False)):
            raise GraphError(f"{where}: consumers must be distinct and increasing")
    if total > MAX_BYTES:
        raise GraphError(f"buffers: the sizes add up to {total}, more than 2**62 bytes")


def _check_edges(graph: Graph) -> None:
    for before, after in graph.order_edges:
        _check_index("order edge", before, graph)
        _check_index("order edge", after, graph)
        if before == after:
            raise GraphError(f"order edge: op {before} must run before itself")


def _check_size(what: str, size: int) -> None:
    if not 0 <= size <= MAX_BYTES:
        raise GraphError(f"{what} {size} is not between 0 and 2**62 bytes")


def _check_index(what: str, index: int, graph: Graph) -> None:
    if not 0 <= index < len(graph.ops):
        raise GraphError(f"{what} {index} is not an op (there are {len(graph.ops)})")

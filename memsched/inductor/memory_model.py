"""What the generated wrapper allocates and frees, for any order of the fused nodes.

`extract_graph` says what Inductor's own estimate believes: one buffer per name.  The allocator sees storages, and
which names share one may depend on the order:

    buf1 = relu(buf0)                buf0 dies here: one storage            (memsched.inductor.inplace)
    buf4 = cat(buf2, buf3)           buf2 and buf3 are written into buf4: one storage, allocated by the first of them
    buf6 = view(buf5)                an alias: one storage
    buf7 = tmp(...)                  read in the kernel that writes it only: no storage
    s = sort(x); v = s[0]; i = s[1]  while the tuple s lives, v and i both do
    permute_3                        saved for backward, but a view of a parameter: nothing that this graph frees
    view_4, view_5                   saved for backward, and views of one tensor: one storage
    buf8                             CUDA: rounded up to blocks of 512 bytes

`AllocationModel` puts names on storages and gives graphs, whose peak is the one of `memsched.core.peak`:

`graph_for(order)`   everything is shared as this order shares it.  Its peak under `order` is the model's peak of the
    order, which is what is reported.  Order edges keep to the orders for which it is exact, or too high.
`planning_graph(order)`   only what every order shares, and concatenations as `order` allocates them.  A reuse that
    depends on the order is left out, so peaks are exact or too high.
`relaxed_graph()`   at or below the model for every order, so a lower bound of it is one of the model.  An output whose
    reuse depends on the order is born after its op v, by an op of its own: put right behind v, that op's step is v's
    level, which the model has too, and v's step misses an output that the model may have.  The parts of a
    concatenation whose first writer depends on the order count for their own bytes, from their own op on.

What the groups of C++ kernels add on CPU is told by `memsched.inductor.kernel_groups`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.inductor.inplace import Reuse, reuses_of
from memsched.inductor.storages import Piece, concatenated, pieces_of, views

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["AllocationModel"]


class AllocationModel:
    """The storages of a graph, for any order.

    estimate: Inductor's own account of the same ops (`extract_graph`): it has the precedences.
    pieces, views, whole_of_part: as in `memsched.inductor.storages`; reuses: as in `memsched.inductor.inplace`.
    """

    def __init__(
        self,
        estimate: Graph,
        pieces: Mapping[str, Piece],
        views: Mapping[str, str],
        whole_of_part: Mapping[str, str],
        reuses: Sequence[Sequence[Reuse]],
    ) -> None:
        self.estimate = estimate
        self._pieces = dict(pieces)
        self._views = dict(views)
        self._whole_of_part = dict(whole_of_part)
        self._reuses = [[one for one in some if one.input in pieces and one.output in pieces] for some in reuses]
        self._ancestors = _ancestors(estimate)
        self._certain = self._reuses_of_all_orders()

    @classmethod
    def of(cls, estimate: Graph, nodes: Sequence[BaseSchedulerNode]) -> AllocationModel:
        """The model of the scheduler's `nodes`, op i being nodes[i]; to be made while `V.graph` is theirs."""
        pieces = pieces_of(estimate, nodes)
        return cls(estimate, pieces, views(nodes, pieces), concatenated(nodes, pieces), reuses_of(nodes))

    @property
    def depends_on_order(self) -> bool:
        """Whether some order shares storages differently from another, so that the relaxed graph may be lower."""
        return bool(self._postponed) or any(self._first_writer(whole) is None for whole in self._parts)

    def peak(self, order: Sequence[int]) -> int:
        """The model's peak of `order`, without kernel groups; bytes."""
        return peak_bytes(self.graph_for(order), order)

    def graph_for(self, order: Sequence[int]) -> Graph:
        """The storages as `order` has them; other orders that it allows need at most what it says."""
        taken = self._taken_by(order)
        return self._graph(taken, order, {(other, reuse.op) for reuse in taken for other in reuse.waits_for})

    def planning_graph(self, order: Sequence[int]) -> Graph:
        """The reuses of every order, and concatenations as `order` allocates them."""
        return self._graph(self._certain, order)

    def relaxed_graph(self) -> Graph:
        """A graph whose lower bound is one for the model; it may have ops behind the nodes."""
        storages = self._storages(self._certain, None)
        late = {root: b.producer for root, b in storages.items() if root in self._postponed and b.producer is not None}
        births = {op: len(self.estimate) + at for at, op in enumerate(sorted(set(late.values())))}
        ops = [*self.estimate.ops, *(Op(f"birth behind {self.estimate.ops[op].name}", "birth") for op in births)]
        storages |= {root: replace(storages[root], producer=births[op]) for root, op in late.items()}
        return _graph_like(self.estimate, ops, list(storages.values()), births.items())

    # Which outputs take over an input's storage

    def _reuses_of_all_orders(self) -> list[Reuse]:
        """The reuses that happen under every order, because every other reader of the input is an ancestor.

        An earlier candidate that depends on the order may be taken instead; of the same size, it is the same bytes.
        """
        taken: list[Reuse] = []
        inputs: set[str] = set()
        for reuses in self._reuses:
            settled: set[str] = set()
            for reuse in reuses:
                if reuse.output in settled or reuse.input in inputs:
                    continue
                if self._is_certain(reuse):
                    taken.append(reuse)
                    inputs.add(reuse.input)
                    settled.add(reuse.output)
                elif self._pieces[reuse.input].size != self._pieces[reuse.output].size:
                    settled.add(reuse.output)
        return taken

    def _is_certain(self, reuse: Reuse) -> bool:
        return all(self._ancestors[reuse.op] >> other & 1 for other in reuse.waits_for)

    @cached_property
    def _postponed(self) -> frozenset[str]:
        """The outputs that may take over an input's storage, or not, by the order."""
        certain = {reuse.output for reuse in self._certain}
        return frozenset(reuse.output for reuses in self._reuses for reuse in reuses) - certain

    def _taken_by(self, order: Iterable[int]) -> list[Reuse]:
        """The reuses that happen under `order`, decided as Inductor decides them."""
        done: set[int] = set()
        taken: list[Reuse] = []
        inputs: set[str] = set()
        for op in order:
            settled: set[str] = set()
            for reuse in self._reuses[op]:
                if reuse.waits_for <= done and reuse.output not in settled and reuse.input not in inputs:
                    taken.append(reuse)
                    inputs.add(reuse.input)
                    settled.add(reuse.output)
            done.add(op)
        return taken

    # Which op allocates a concatenated buffer

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        parts: dict[str, list[str]] = {}
        for part, whole in self._whole_of_part.items():
            parts.setdefault(whole, []).append(part)
        return parts

    def _writers(self, whole: str) -> set[int]:
        producers = (self._pieces[name].producer for name in (whole, *self._parts[whole]))
        return {op for op in producers if op is not None}

    def _first_writer(self, whole: str, position: Mapping[int, int] | None = None) -> int | None:
        """The op that writes to `whole` first: of the order of `position`, or of all orders if it is the same."""
        writers = self._writers(whole)
        if position is not None:
            return min(writers, key=position.__getitem__)
        return next((op for op in writers if all(self._ancestors[other] >> op & 1 for other in writers - {op})), None)

    # Graphs

    def _graph(
        self, reuses: Iterable[Reuse], order: Sequence[int] | None, edges: Iterable[tuple[int, int]] = ()
    ) -> Graph:
        storages = self._storages(reuses, order)
        return _graph_like(self.estimate, self.estimate.ops, list(storages.values()), edges)

    def _storages(self, reuses: Iterable[Reuse], order: Sequence[int] | None) -> dict[str, Buffer]:
        """One buffer per storage, when `reuses` happen, by the name that allocates it.

        order: tells which op allocates a concatenated buffer; without it the parts of one count for themselves.
        """
        owner = self._views | {reuse.output: reuse.input for reuse in reuses}
        allocated_by = self._allocating_ops(order)
        for whole in allocated_by:
            owner |= dict.fromkeys(self._parts[whole], whole)
        members: dict[str, list[str]] = {}
        for name in self._pieces:
            root = name
            while root in owner:
                root = owner[root]
            members.setdefault(root, []).append(name)
        storages = {}
        for root, names in members.items():
            if root in self._parts and root not in allocated_by:
                continue
            pieces = [self._pieces[name] for name in names]
            if root in self._whole_of_part:  # a part that counts for itself: it lives as long as the whole
                pieces.append(replace(self._pieces[self._whole_of_part[root]], size=0))
            name = next((name for name in names if self._pieces[name].kept), root)
            buffer = _buffer(name, pieces, allocated_by.get(root, self._pieces[root].producer))
            if buffer is not None:
                storages[root] = buffer
        return storages

    def _allocating_ops(self, order: Sequence[int] | None) -> dict[str, int]:
        """The op that allocates each concatenated buffer, where `order`, or every order, tells."""
        position = {op: at for at, op in enumerate(order)} if order is not None else None
        first = ((whole, self._first_writer(whole, position)) for whole in self._parts)
        return {whole: op for whole, op in first if op is not None}


def _buffer(name: str, pieces: Sequence[Piece], producer: int | None) -> Buffer | None:
    """The storage of `pieces`; None when the kernel that writes it keeps it to itself."""
    if all(piece.local for piece in pieces):
        return None
    readers = {op for piece in pieces for op in (*piece.readers, piece.producer) if op is not None}
    size = max(piece.size for piece in pieces)
    consumers = tuple(sorted(readers - {producer}))
    if not size or (producer is None and not consumers):
        return None
    return Buffer(name, size, producer, consumers, any(piece.kept for piece in pieces))


def _graph_like(
    estimate: Graph, ops: Sequence[Op], buffers: Sequence[Buffer], edges: Iterable[tuple[int, int]]
) -> Graph:
    """The estimate's ops, and `ops` behind them, with other storages, under its precedences and `edges`."""
    implied = {(b.producer, reader) for b in buffers if b.producer is not None for reader in b.consumers}
    precedences = {(before, op) for op, some in enumerate(estimate.predecessors) for before in some}
    order_edges = tuple(sorted((precedences | set(edges)) - implied))
    return replace(estimate, ops=tuple(ops), buffers=tuple(buffers), order_edges=order_edges)


def _ancestors(graph: Graph) -> list[int]:
    """For each op the set of its ancestors, as a bit mask."""
    ancestors = [0] * len(graph)
    for op in graph.topological_order:
        for before in graph.predecessors[op]:
            ancestors[op] |= ancestors[before] | 1 << before
    return ancestors

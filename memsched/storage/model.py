"""What the generated wrapper allocates and frees, for any order of the fused nodes.

`extract_graph` says what Inductor's own estimate believes: one buffer per name.  The allocator sees storages, and
which names share one may depend on the order:

    buf1 = relu(buf0)                buf0 dies here: one storage            (memsched.inductor.storages.inplace)
    buf4 = cat(buf2, buf3)           buf2 and buf3 are written into buf4: one storage, allocated by the first of them
    buf6 = view(buf5)                an alias: one storage
    buf7 = tmp(...)                  read in the kernel that writes it only: no storage
    s = sort(x); v = s[0]; i = s[1]  while the tuple s lives, v and i both do
    convolution(buf7, w)             CPU: while it runs, a copy of w besides  (memsched.inductor.storages.workspaces)
    permute_3                        saved for backward, but a view of a parameter: nothing that this graph frees
    primals_2                        saved for backward as a copy in another layout: dies with its last reader
    view_4, view_5                   saved for backward, and views of one tensor: one storage
    buf8                             CUDA: rounded up to blocks of 512 bytes

`AllocationModel` puts names on storages and gives graphs, whose peak is the one of `memsched.core.peak`:

`graph_for(order)`   everything is shared as this order shares it.  Its peak under `order` is the model's peak of the
    order, which is what is reported.  Order edges keep to the orders for which it is exact, or too high.
`planning_graph()`   what every order shares, with an op of its own that allocates a concatenation before its first
    writer, where that depends on the order (`with_allocations` puts them into an order).  Before and after every op
    it has the bytes of the model; an op whose output may be written in place, by the order, needs up to that much
    less in the model (`order_dependent_reuses`).  So peaks are exact or too high, and searching it is safe; a lower
    bound takes `memsched.storage.bound`.

What the groups of C++ kernels add on CPU is told by `memsched.storage.kernel_groups`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.storage.pieces import Piece, Reuse

__all__ = ["AllocationModel", "ReuseChoice"]


@dataclass(frozen=True, slots=True)
class ReuseChoice:
    """An output that may be written in place, which saves `saved` bytes while its op runs.

    waits_for: for each input that it may take over, the ops that must have run for that.
    """

    saved: int
    waits_for: tuple[frozenset[int], ...]


class AllocationModel:
    """The storages of a graph, for any order.

    estimate: Inductor's own account of the same ops (`extract_graph`), with workspaces: it has the precedences.
    pieces, views, whole_of_part: as in `memsched.inductor.storages.buffers`; reuses: as in
    `memsched.inductor.storages.inplace`.
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
        self._certain = self._reuses_of_all_orders()
        self._peaks: dict[tuple[int, ...], int] = {}

    @property
    def depends_on_order(self) -> bool:
        """Whether some order shares storages differently from another."""
        return bool(self.order_dependent_reuses or self._begun_by_any)

    def peak(self, order: Sequence[int]) -> int:
        """The model's peak of `order`, without kernel groups; bytes."""
        order = tuple(order)
        if order not in self._peaks:
            self._peaks[order] = peak_bytes(self.graph_for(order), order)
        return self._peaks[order]

    def graph_for(self, order: Sequence[int]) -> Graph:
        """The storages as `order` has them; other orders that it allows need at most what it says."""
        taken = self.taken_by(order)
        return self._graph(taken, order, {(other, reuse.op) for reuse in taken for other in reuse.waits_for})

    def planning_graph(self, forced: Sequence[Reuse] = ()) -> Graph:
        """The reuses of every order; behind the nodes an op for each concatenation that several ops may begin.

        forced: reuses that happen besides, because order edges make them wait.  Raises GraphError if they cannot.
        """
        waits = {(other, reuse.op) for reuse in forced for other in reuse.waits_for}
        return self._graph([*self._certain, *forced], None, waits)

    def storages_of_fused(self) -> Graph:
        """The planning graph without what is written over another, which changes as ops are fused."""
        return self._graph((), None)

    def relaxed_graph(self) -> Graph:
        """The planning graph, in which an op that may write over an input no longer keeps that input alive.

        So no order has more live bytes at any step than it has under the model: when the op writes over the input, the
        other readers have run, and the input is dead; when it does not, the input only dies too early.
        """
        released = {(reuse.input, reuse.op) for some in self._reuses for reuse in some if reuse not in self._certain}
        return self._graph(self._certain, None, released=released)

    def missed_by(self, order: Sequence[int]) -> list[Reuse]:
        """The reuses that `order` does not make, but others do, for outputs and inputs that it leaves apart."""
        used = {name for reuse in self.taken_by(order) for name in (reuse.output, reuse.input)}
        return [one for some in self._reuses for one in some if one.output not in used and one.input not in used]

    def saved_by(self, reuse: Reuse) -> int:
        """Bytes that the op of `reuse` needs less when it happens."""
        return self._pieces[reuse.output].size

    def with_allocations(self, order: Sequence[int]) -> tuple[int, ...]:
        """`order` as an order of the planning graph: what allocates a concatenation, right before its first writer."""
        position = {op: at for at, op in enumerate(order)}
        allocations: dict[int | None, list[int]] = {}
        for extra, whole in enumerate(self._begun_by_any, len(self.estimate)):
            allocations.setdefault(self._first_writer(whole, position), []).append(extra)
        return tuple(one for op in order for one in (*allocations.get(op, ()), op))

    def without_allocations(self, order: Sequence[int]) -> tuple[int, ...]:
        """An order of the planning graph as an order of the nodes."""
        return tuple(op for op in order if op < len(self.estimate))

    @cached_property
    def order_dependent_reuses(self) -> dict[int, list[ReuseChoice]]:
        """For each op the outputs that some orders write in place and some do not."""
        choices: dict[int, list[ReuseChoice]] = {}
        certain = {reuse.output for reuse in self._certain}
        for op, reuses in enumerate(self._reuses):
            waits_for: dict[str, list[frozenset[int]]] = {}
            for reuse in reuses:
                if reuse.output not in certain:
                    waits_for.setdefault(reuse.output, []).append(reuse.waits_for)
            if waits_for:
                choices[op] = [ReuseChoice(self._pieces[name].size, tuple(waits)) for name, waits in waits_for.items()]
        return choices

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
        return all(self.estimate.ancestors[reuse.op] >> other & 1 for other in reuse.waits_for)

    def taken_by(self, order: Iterable[int]) -> list[Reuse]:
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
        ancestors = self.estimate.ancestors
        return next((op for op in writers if all(ancestors[other] >> op & 1 for other in writers - {op})), None)

    @cached_property
    def _begun_by_any(self) -> list[str]:
        """The concatenated buffers whose first writer depends on the order."""
        return [whole for whole in self._parts if self._first_writer(whole) is None]

    # Graphs

    def _graph(
        self,
        reuses: Iterable[Reuse],
        order: Sequence[int] | None,
        edges: Iterable[tuple[int, int]] = (),
        released: Collection[tuple[str, int]] = (),
    ) -> Graph:
        """One buffer per storage, when `reuses` happen.

        order: tells which op allocates a concatenated buffer; without it, where that is open, an extra op does.
        released: (name, reader) pairs of readers that do not keep the storage alive.
        """
        allocating = self._allocating_ops(order)
        owner = self._views | {reuse.output: reuse.input for reuse in reuses}
        owner |= {part: whole for whole, parts in self._parts.items() for part in parts}
        members: dict[str, list[str]] = {}
        for name in self._pieces:
            root = name
            while root in owner:
                root = owner[root]
            members.setdefault(root, []).append(name)
        buffers = []
        for root, names in members.items():
            pieces = [self._pieces[name] for name in names]
            name = next((name for name in names if self._pieces[name].kept), root)
            spared = {op for name, op in released if name in names}
            buffer = _buffer(name, pieces, allocating.get(root, self._pieces[root].producer), spared)
            if buffer is not None:
                buffers.append(buffer)
        extra = [whole for whole, op in allocating.items() if op >= len(self.estimate)]
        return _graph_like(self.estimate, [Op(f"allocate {whole}", "allocation") for whole in extra], buffers, edges)

    def _allocating_ops(self, order: Sequence[int] | None) -> dict[str, int]:
        """The op that allocates each concatenated buffer: its first writer if that is known, else an extra op."""
        position = {op: at for at, op in enumerate(order)} if order is not None else None
        firsts = ((whole, self._first_writer(whole, position)) for whole in self._parts)
        extra = {whole: len(self.estimate) + at for at, whole in enumerate(self._begun_by_any)}
        return {whole: extra[whole] if op is None else op for whole, op in firsts}


def _buffer(name: str, pieces: Sequence[Piece], producer: int | None, spared: Collection[int] = ()) -> Buffer | None:
    """The storage of `pieces`; None when the kernel that writes it keeps it to itself.

    spared: readers that do not keep it alive.
    """
    if all(piece.local for piece in pieces):
        return None
    readers = {op for piece in pieces for op in (*piece.readers, piece.producer) if op is not None}
    size = max(piece.size for piece in pieces)
    consumers = tuple(sorted(readers - {producer, *spared}))
    if not size or (producer is None and not consumers):
        return None
    return Buffer(name, size, producer, consumers, any(piece.kept for piece in pieces))


def _graph_like(
    estimate: Graph, extra: Sequence[Op], buffers: Sequence[Buffer], edges: Iterable[tuple[int, int]]
) -> Graph:
    """The estimate's ops, and `extra` behind them, with other storages, under its precedences and `edges`."""
    implied = {(b.producer, reader) for b in buffers if b.producer is not None for reader in b.consumers}
    order_edges = tuple(sorted({*estimate.precedences, *edges} - implied))
    return replace(estimate, ops=(*estimate.ops, *extra), buffers=tuple(buffers), order_edges=order_edges)

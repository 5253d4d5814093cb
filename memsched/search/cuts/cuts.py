"""The least live bytes with which an op can possibly run: one minimum cut per op.

When op v starts, the ops that have run form a down-set S that holds all ancestors of v and neither v nor a descendant.
Which one it is depends on the order.  The fewest live bytes over all such S is what no order undercuts:

            ┌──X 5──> b ──Y 1──┐         At c: a must have run, d must not, b is free.  Without b: X, 5 bytes live.
        a ──┤                  v         With b: X (c still reads it) and Y, 6.  So c cannot run below 5 + 2 = 7.
            └──X 5──> c ──Z 2──> d

Live bytes as a function of S are modular except for buffers with several readers, which the last reader frees.  That
makes it a closure problem (Picard 1976, see `memsched.search.cuts.closure`): freeing a buffer earns its size and
requires all its readers; running an op costs the bytes that it leaves and requires its predecessors.  Ops that are
comparable to v are settled, so the network holds only the incomparable ones that matter.  The maximum flow is the
certificate.

    source ──size──> buffer ──> its free readers ──> their free predecessors ──> ...      every op ──net bytes──> sink

The down-set S is also a move: `reroute` makes an order pass through it.  Live bytes are submodular: for any other set P
that the order passes, P & S and P | S together have no more than P and S; and where one of them still qualifies for v,
it has no less than S, so that the other has no more than P.  Therefore no step rises, except of ops that change sides:
those of S that ran after v, and those outside S that ran before v.  With `op` given, v runs right after S, at the least
that any order allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.core.result import CutCertificate
from memsched.search.cuts.closure import Flow, maximum_flow

__all__ = ["AFTER", "BEFORE", "FREE", "Cut", "CutNetwork", "CutSolver", "reroute"]

FREE, BEFORE, AFTER = 0, 1, 2
_SOURCE, _SINK = 0, 1


def reroute(order: Sequence[int], done: Sequence[int], op: int | None = None) -> list[int]:
    """First the ops of a down-set, then `op` if it is given, then the rest, each part in the order of `order`.

    done: for each op whether it is in the down-set.
    op: an op that can run after the down-set and is not in it.
    """
    first = [other for other in order if done[other]]
    if op is not None:
        first.append(op)
    first += [other for other in order if not done[other] and other != op]
    return first


@dataclass(frozen=True, slots=True)
class Cut:
    """The least down-set with which `op` can start.

    done: for each op whether it is in the down-set, one byte each.
    level: live bytes after the down-set has run.
    bound: `level` plus the outputs and the workspace of `op`; no order runs `op` below it.
    """

    op: int
    bound: int
    level: int
    done: bytearray
    network: CutNetwork
    flow: Flow

    def certificate(self) -> CutCertificate:
        """The cut in the form that `memsched.check.certificate.check_cut` follows; arcs without flow are left out."""
        return CutCertificate(
            self.bound,
            self.op,
            tuple(op for op, has_run in enumerate(self.done) if has_run),
            self._flows(self.network.reader_arcs),
            self._flows(self.network.precedence_arcs),
        )

    def _flows(self, arcs: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
        flows = self.flow.arc_flows
        return tuple((tail, head, flows[arc]) for tail, head, arc in arcs if flows[arc])


class CutSolver:
    """Minimum cuts of one graph.  `work` is the number of ops, buffers and arcs that the last call looked at.

    `predecessors` and `successors` are those of the graph and what `require` has added.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.predecessors: list[Sequence[int]] = list(graph.predecessors)
        self.successors: list[Sequence[int]] = list(graph.successors)
        self.work = 0
        self.hump = [graph.output_bytes[op] + graph.ops[op].workspace for op in range(len(graph))]
        self.net = [
            sum(graph.buffers[index].size for index in outputs if _outlives_its_producer(graph, index))
            for outputs in graph.outputs_of
        ]
        self.freeable = [
            (index, buffer.size, buffer.consumers)
            for index, buffer in enumerate(graph.buffers)
            if buffer.consumers and buffer.size and not buffer.kept
        ]

    def require(self, first: int, second: int) -> None:
        """From now on `first` runs before `second`; they must not be ordered the other way."""
        self.predecessors[second] = (*self.predecessors[second], first)
        self.successors[first] = (*self.successors[first], second)

    def cut_at(self, op: int, floor: int = -1, *, earlier: Sequence[int] = (), later: Sequence[int] = ()) -> Cut | None:
        """The minimum cut at `op`; None when running `op` as early as possible already shows a bound of <= `floor`.

        earlier, later: ops incomparable to `op` that are supposed to have run, or not to have run, when `op` starts.
        """
        state = self._sides((op, *earlier), (op, *later))
        state[op] = AFTER
        level = self.graph.start_bytes + sum(net for net, side in zip(self.net, state, strict=True) if side == BEFORE)
        choices: list[tuple[int, int, list[int]]] = []
        for index, size, consumers in self.freeable:
            free_readers: list[int] = []
            for consumer in consumers:
                side = state[consumer]
                if side == AFTER:
                    break
                if side == FREE:
                    free_readers.append(consumer)
            else:
                if free_readers:
                    choices.append((index, size, free_readers))
                else:
                    level -= size
        self.work = len(state) + len(self.freeable)
        if level + self.hump[op] <= floor:
            return None
        return self._least_down_set(op, level, state, choices)

    def _sides(self, earlier: Sequence[int], later: Sequence[int]) -> bytearray:
        """For each op whether it runs before or with some of `earlier`, with or after some of `later`, or is free."""
        state = bytearray(len(self.graph))
        for side, ops, neighbours in ((BEFORE, earlier, self.predecessors), (AFTER, later, self.successors)):
            stack = list(ops)
            for op in ops:
                state[op] = side
            while stack:
                for other in neighbours[stack.pop()]:
                    if not state[other]:
                        state[other] = side
                        stack.append(other)
        return state

    def _least_down_set(
        self, op: int, level: int, state: bytearray, choices: Sequence[tuple[int, int, list[int]]]
    ) -> Cut:
        """The cut, given the bytes live after only the ancestors of `op`, and the buffers that may be freed besides."""
        network = CutNetwork(self.predecessors, self.net, state, choices)
        self.work += len(network.arcs)
        flow = network.maximum_flow()
        level += flow.value - sum(size for _, size, _ in choices)
        done = bytearray(side == BEFORE for side in state)
        for other in network.ops_of(flow.source_side):
            done[other] = 1
        return Cut(op, level + self.hump[op], level, done, network, flow)


class CutNetwork:
    """The arcs of the drawing above.  A buffer with one free reader needs no node of its own.

    state: for each op FREE, BEFORE or AFTER; only free ops that a buffer reaches become nodes.
    choices: (buffer, size, its free readers) of the buffers that free ops may free.
    `reader_arcs` (buffer, op, arc) and `precedence_arcs` (op, predecessor, arc) are what a certificate lists.
    """

    def __init__(
        self,
        predecessors: Sequence[Sequence[int]],
        net: Sequence[int],
        state: bytearray,
        choices: Sequence[tuple[int, int, list[int]]],
    ) -> None:
        self.arcs: list[tuple[int, int, int]] = []
        self.reader_arcs: list[tuple[int, int, int]] = []
        self.precedence_arcs: list[tuple[int, int, int]] = []
        self.num_nodes = 2
        self._node_of: dict[int, int] = {}
        self._unbounded = sum(size for _, size, _ in choices) + 1
        for index, size, readers in choices:
            self._add_buffer(index, size, readers)
        ops = list(self._node_of)
        for op in ops:
            self.arcs.append((self._node_of[op], _SINK, net[op]))
            for before in predecessors[op]:
                if state[before] == FREE:
                    if before not in self._node_of:
                        ops.append(before)
                    self.precedence_arcs.append((op, before, len(self.arcs)))
                    self.arcs.append((self._node_of[op], self._node(before), self._unbounded))

    def maximum_flow(self) -> Flow:
        """A maximum flow; its value is what the best down-set does *not* save of the bytes that may be freed."""
        return maximum_flow(self.num_nodes, self.arcs, _SOURCE, _SINK)

    def ops_of(self, nodes: Sequence[int]) -> list[int]:
        """The ops among the nodes of a cut."""
        inside = set(nodes)
        return [op for op, node in self._node_of.items() if node in inside]

    def _add_buffer(self, index: int, size: int, readers: list[int]) -> None:
        tail, capacity = _SOURCE, size
        if len(readers) > 1:
            tail, capacity = self.num_nodes, self._unbounded
            self.num_nodes += 1
            self.arcs.append((_SOURCE, tail, size))
        for reader in readers:
            self.reader_arcs.append((index, reader, len(self.arcs)))
            self.arcs.append((tail, self._node(reader), capacity))

    def _node(self, op: int) -> int:
        node = self._node_of.get(op)
        if node is None:
            node = self._node_of[op] = self.num_nodes
            self.num_nodes += 1
        return node


def _outlives_its_producer(graph: Graph, index: int) -> bool:
    return graph.buffers[index].kept or bool(graph.buffers[index].consumers)

"""Minimum-weight closures and the maximum flow behind them: the one primitive that every cut bound and commit uses.

A *closure* is a set of nodes that holds, with each node, everything that the node requires.  Down-sets are closures (an
op requires its predecessors), and so is a down-set together with the tensors that it frees (a tensor requires all its
readers).  Each node has a weight; we want the closure of least total weight.

    weights  a: +4   b: -6   c: +3      requires  b -> a, c -> a      the least closure is {a, b}, weight -2

Picard (Management Science 22, 1976): join a source to every node of negative weight and every node of positive weight
to a sink, with the absolute weights as capacities, and give every requirement an unbounded arc.  The nodes on the
source's side of a minimum cut are a least closure.  Minimum cuts form a lattice: the smallest and the largest one are
unique, so both answers are the same on every machine.

OR-Tools computes the flow where it is installed; without it a small augmenting-path search (Dinic 1970) does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ["ClosureNetwork", "Flow", "maximum_flow", "minimum_closure"]

Arc = tuple[int, int, int]
"""(tail, head, capacity)."""

_LARGEST_CAPACITY = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Flow:
    """A maximum flow: its value, the flow on each arc, and the two extreme minimum cuts.

    source_side: nodes that the source still reaches (the smallest minimum cut), increasing.
    sink_side: nodes that still reach the sink; what is outside is the largest minimum cut, increasing.
    """

    value: int
    arc_flows: tuple[int, ...]
    source_side: tuple[int, ...]
    sink_side: tuple[int, ...]


def minimum_closure(
    weights: Sequence[int], requires: Iterable[tuple[int, int]], *, largest: bool = False
) -> tuple[int, ...]:
    """The closure of least total weight, as increasing node numbers.

    `requires` are pairs (node, required node); requirements may be cyclic.  Of all least closures it is the smallest
    one, or the largest one with `largest`.  The sum of the absolute weights must stay below 2**62.
    """
    num_nodes = len(weights)
    source, sink = num_nodes, num_nodes + 1
    arcs: list[Arc] = []
    for node, weight in enumerate(weights):
        if weight < 0:
            arcs.append((source, node, -weight))
        elif weight > 0:
            arcs.append((node, sink, weight))
    unbounded = sum(map(abs, weights)) + 1
    arcs.extend((node, required, unbounded) for node, required in requires)
    flow = maximum_flow(num_nodes + 2, arcs, source, sink)
    if largest:
        outside = set(flow.sink_side)
        return tuple(node for node in range(num_nodes) if node not in outside)
    return tuple(node for node in flow.source_side if node < num_nodes)


class ClosureNetwork:
    """Least closures of one set of weights, asked again and again with other nodes forced in or out.

    Same construction and same answer as `minimum_closure`; requirements may be added between two questions.
    """

    def __init__(self, weights: Sequence[int], requires: Iterable[tuple[int, int]]) -> None:
        self._num_nodes = len(weights)
        self._source, self._sink = self._num_nodes, self._num_nodes + 1
        self._unbounded = sum(map(abs, weights)) + 1
        self._negative = sum(weight for weight in weights if weight < 0)
        # arc 2v is source -> v, arc 2v + 1 is v -> sink
        self._arcs: list[Arc] = []
        for node, weight in enumerate(weights):
            self._arcs += [(self._source, node, max(0, -weight)), (node, self._sink, max(0, weight))]
        solver = _ortools_max_flow()
        self._solver = None if solver is None else solver()
        self._arcs.extend((node, required, self._unbounded) for node, required in requires)
        if self._solver is not None:
            for arc in self._arcs:
                self._solver.add_arc_with_capacity(*arc)

    @property
    def num_arcs(self) -> int:
        """Size of the network: what one question costs."""
        return len(self._arcs)

    def require(self, node: int, required: int) -> None:
        """From now on a closure with `node` holds `required` too."""
        self._arcs.append((node, required, self._unbounded))
        if self._solver is not None:
            self._solver.add_arc_with_capacity(node, required, self._unbounded)

    def least(self, inside: Iterable[int], outside: Iterable[int]) -> tuple[int, list[int]]:
        """(weight, nodes) of the least closure that holds `inside` and nothing of `outside`; one must exist."""
        forced = [2 * node for node in inside] + [2 * node + 1 for node in outside]
        if self._solver is None:
            arcs = list(self._arcs)
            for arc in forced:
                arcs[arc] = (*arcs[arc][:2], self._unbounded)
            flow = DinicFlow(self._num_nodes + 2, arcs, self._source, self._sink).solve()
            value, side = flow.value, list(flow.source_side)
        else:
            for arc in forced:
                self._solver.set_arc_capacity(arc, self._unbounded)
            status = self._solver.solve(self._source, self._sink)
            if status != self._solver.OPTIMAL:
                raise ArithmeticError(f"maximum flow: OR-Tools answered {status}")
            value, side = self._solver.optimal_flow(), self._solver.get_source_side_min_cut()
            for arc in forced:
                self._solver.set_arc_capacity(arc, self._arcs[arc][2])
        return self._negative + value, [node for node in side if node < self._num_nodes]


def maximum_flow(num_nodes: int, arcs: Sequence[Arc], source: int, sink: int) -> Flow:
    """A maximum flow from `source` to `sink`; capacities are non-negative.

    OR-Tools takes 64 bits: where a capacity needs more, the flow is computed here.
    """
    solver = _ortools_max_flow()
    if solver is None or any(capacity > _LARGEST_CAPACITY for _, _, capacity in arcs):
        return DinicFlow(num_nodes, arcs, source, sink).solve()
    problem = solver()
    for tail, head, capacity in arcs:
        problem.add_arc_with_capacity(tail, head, capacity)
    problem.add_arc_with_capacity(source, sink, 0)  # a node that no arc touches does not exist for the solver
    status = problem.solve(source, sink)
    if status != problem.OPTIMAL:
        raise ArithmeticError(f"maximum flow: OR-Tools answered {status}")
    return Flow(
        problem.optimal_flow(),
        tuple(problem.flow(index) for index in range(len(arcs))),
        tuple(sorted(problem.get_source_side_min_cut())),
        tuple(sorted(problem.get_sink_side_min_cut())),
    )


@cache
def _ortools_max_flow() -> Any:
    """OR-Tools' solver class, or None where it is not installed."""
    try:
        from ortools.graph.python import max_flow
    except ImportError:
        return None
    return max_flow.SimpleMaxFlow


class DinicFlow:
    """Maximum flow by blocking flows in layered residual graphs, without recursion.

    Arc 2i is the i-th arc, arc 2i+1 its reverse; `residual` is what still fits.
    """

    def __init__(self, num_nodes: int, arcs: Sequence[Arc], source: int, sink: int) -> None:
        self.arcs, self.source, self.sink = arcs, source, sink
        self.heads: list[int] = []
        self.residual: list[int] = []
        self.arcs_from: list[list[int]] = [[] for _ in range(num_nodes)]
        for tail, head, capacity in arcs:
            self.arcs_from[tail].append(len(self.heads))
            self.arcs_from[head].append(len(self.heads) + 1)
            self.heads += [head, tail]
            self.residual += [capacity, 0]

    def solve(self) -> Flow:
        """Augment until the sink cannot be reached."""
        value = 0
        while (layer := self._layers()) is not None:
            value += self._blocking_flow(layer)
        flows = tuple(self.residual[2 * index + 1] for index in range(len(self.arcs)))
        return Flow(value, flows, self._reached(self.source, 0), self._reached(self.sink, 1))

    def _layers(self) -> list[int] | None:
        """Distance of each node from the source in the residual graph; None when the sink cannot be reached."""
        layer = [-1] * len(self.arcs_from)
        layer[self.source] = 0
        queue = [self.source]
        for node in queue:
            for arc in self.arcs_from[node]:
                head = self.heads[arc]
                if self.residual[arc] and layer[head] < 0:
                    layer[head] = layer[node] + 1
                    queue.append(head)
        return layer if layer[self.sink] >= 0 else None

    def _blocking_flow(self, layer: list[int]) -> int:
        """Push along shortest paths until every one has a full arc; the value pushed."""
        next_arc = [0] * len(self.arcs_from)
        pushed = 0
        path: list[int] = []
        node = self.source
        while True:
            if node == self.sink:
                amount = min(self.residual[arc] for arc in path)
                for arc in path:
                    self.residual[arc] -= amount
                    self.residual[arc ^ 1] += amount
                pushed += amount
                first_full = next(at for at, arc in enumerate(path) if not self.residual[arc])
                node = self.heads[path[first_full] ^ 1]
                del path[first_full:]
                continue
            while next_arc[node] < len(self.arcs_from[node]):
                arc = self.arcs_from[node][next_arc[node]]
                if self.residual[arc] and layer[self.heads[arc]] == layer[node] + 1:
                    break
                next_arc[node] += 1
            else:
                if not path:
                    return pushed
                layer[node] = -1
                node = self.heads[path.pop() ^ 1]
                continue
            path.append(arc)
            node = self.heads[arc]

    def _reached(self, start: int, backwards: int) -> tuple[int, ...]:
        """Nodes that a residual path leads to from `start` (or, backwards, from which one leads to it)."""
        seen = {start}
        queue = [start]
        for node in queue:
            for arc in self.arcs_from[node]:
                if self.residual[arc ^ backwards] and self.heads[arc] not in seen:
                    seen.add(self.heads[arc])
                    queue.append(self.heads[arc])
        return tuple(sorted(seen))

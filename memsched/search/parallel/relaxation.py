"""The worst case of parallel executions as a maximum closure: exact where one op frees each tensor, else a bound.

Let s(v) say that v has started and c(v) that it has completed, so c(v) <= s(v), and s(v) <= c(u) for every precedence
u -> v.  A buffer b from p that is last read by w holds size(b) * (s(p) - c(w)) bytes: linear, because c(w) implies
s(p).  The most bytes over all closures of these implications is a minimum cut (Picard 1976), so it is exact and takes
polynomial time.  Marchal et al. (2018) solve the same case as a minimum flow.

    a ──X──> b, c      Both read X, neither is last: when is it freed?  Not before both have completed, but that is no
    b, c ──> d         single implication.  What we can say is that it is freed when d starts: s(d) <= freed(X).

So a tensor that has no last reader is counted until an op starts that needs all its readers: too long, never too
short, and the result is a bound.  (With shared tensors the problem is NP-hard: independent set, see `program.py`.)

With at most p ops at once there is one more constraint, sum of s(v) - c(v) <= p.  It is priced: every running op is
charged `price` bytes and p * price are given back (Lagrange).  Every price proves a bound, and the best price is found
by intersecting the lines that the closures found so far draw (Kelley 1960), in a handful of flows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from memsched.core.execution import Execution, WorstCaseCertificate, bytes_held
from memsched.core.graph import Graph
from memsched.search.cuts.closure import Arc, maximum_flow

__all__ = ["Relaxation", "Relaxed", "most_bytes_running"]

_MOST_PRICES = 40
"""Lines that are intersected before the best bound so far is taken; ten are enough for the graphs that we know."""


@dataclass(frozen=True, slots=True)
class Relaxed:
    """A bound on what executions hold, the closure that reaches it, and the proof.

    `execution` reaches the bound only where one op frees each tensor and the number of running ops is within the limit.
    """

    bound: int
    execution: Execution
    certificate: WorstCaseCertificate


class Relaxation:
    """The closure problem of one graph.  Nodes are s(v), then c(v), then freed(b) for tensors without a last reader."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._ops = len(graph)

    def bound(self, parallel: int | None) -> Relaxed:
        """The best bound for executions with at most `parallel` ops at once (None: any number)."""
        best = free = self._at_price(0, 0)
        if parallel is None or len(free.execution.running) <= parallel:
            return free
        # a closure with r running ops that holds f bytes draws the line f + price * (p - r): r > p falls, r < p rises
        falling = _line(free, parallel)
        price = 1 + max(map(self._own_bytes, range(self._ops)))  # at which nothing runs
        rising = _line(self._at_price(price, parallel), parallel)
        for _ in range(_MOST_PRICES):
            crossing = (falling.start - rising.start) // (rising.slope - falling.slope)
            if crossing == price:
                break
            price = crossing
            answer = self._at_price(price, parallel)
            best = min(best, answer, key=lambda relaxed: relaxed.bound)
            line = _line(answer, parallel)
            if not line.slope:
                break
            falling, rising = (line, rising) if line.slope < 0 else (falling, line)
        return best

    def _at_price(self, price: int, parallel: int) -> Relaxed:
        """The most that executions hold, less `price` for each running op above `parallel`, and its proof."""
        weights = self._weights(price)
        source, sink = len(weights), len(weights) + 1
        unbounded = sum(map(abs, weights)) + 1
        arcs: list[Arc] = [(node, required, unbounded) for node, required in self._requires]
        for node, weight in enumerate(weights):
            arcs.append((source, node, -weight) if weight < 0 else (node, sink, weight))
        flow = maximum_flow(len(weights) + 2, arcs, source, sink)
        least = sum(weight for weight in weights if weight < 0) + flow.value
        bound = self.graph.start_bytes - least + price * parallel
        inside = set(flow.source_side)
        execution = Execution(
            tuple(op for op in range(self._ops) if self._ops + op in inside),
            tuple(op for op in range(self._ops) if op in inside),
        )
        return Relaxed(bound, execution, self._certificate(bound, price, flow.arc_flows))

    def _certificate(self, bound: int, price: int, flows: tuple[int, ...]) -> WorstCaseCertificate:
        """The flow on every implication, by kind of implication."""
        completion, precedence, freed = [], [], []
        for (node, required), amount in zip(self._requires, flows, strict=False):
            if not amount:
                continue
            if node >= self._ops:
                completion.append((node - self._ops, amount))
            elif required < 2 * self._ops:
                precedence.append((node, required - self._ops, amount))
            else:
                freed.append((node, self._shared[required - 2 * self._ops], amount))
        return WorstCaseCertificate(bound, price, tuple(completion), tuple(precedence), tuple(freed))

    @cached_property
    def _last_users(self) -> dict[int, int]:
        """The op whose completion frees the buffer, for those that are freed by one op."""
        found = {}
        for index, buffer in enumerate(self.graph.buffers):
            if buffer.kept:
                continue
            if not buffer.consumers and buffer.producer is not None:
                found[index] = buffer.producer
            for op in buffer.consumers:
                if all(other == op or self.graph.ancestors[op] >> other & 1 for other in buffer.consumers):
                    found[index] = op
        return found

    @cached_property
    def _shared(self) -> tuple[int, ...]:
        """The buffers that no single op frees, increasing."""
        return tuple(
            index
            for index, buffer in enumerate(self.graph.buffers)
            if not buffer.kept and buffer.size and index not in self._last_users
        )

    @cached_property
    def _requires(self) -> tuple[tuple[int, int], ...]:
        """(node, what holds with it)."""
        completed = [(self._ops + op, op) for op in range(self._ops)]
        needs = [(op, self._ops + before) for before, op in self.graph.precedences]
        frees = [
            (op, 2 * self._ops + at) for at, index in enumerate(self._shared) for op in self._first_after_all(index)
        ]
        return tuple(completed + needs + frees)

    def _first_after_all(self, index: int) -> Iterator[int]:
        """The ops that need all readers of the buffer, without those that need another such op."""
        after_all = -1
        for op in self.graph.buffers[index].consumers:
            after_all &= self.graph.descendants[op]
        for op in range(self._ops):
            if after_all >> op & 1 and not any(after_all >> before & 1 for before in self.graph.predecessors[op]):
                yield op

    def _weights(self, price: int) -> list[int]:
        """What each node adds to bytes, with the sign changed: the least closure holds the most."""
        weights = [price - self._own_bytes(op) for op in range(self._ops)]
        weights += [op.workspace - price for op in self.graph.ops]
        weights += [self.graph.buffers[index].size for index in self._shared]
        for index, op in self._last_users.items():
            weights[self._ops + op] += self.graph.buffers[index].size
        return weights

    def _own_bytes(self, op: int) -> int:
        """What starting the op adds."""
        return self.graph.output_bytes[op] + self.graph.ops[op].workspace


@dataclass(frozen=True, slots=True)
class _Line:
    """The bound that one closure allows, as a function of the price: start + slope * price."""

    start: int
    slope: int


def _line(relaxed: Relaxed, parallel: int) -> _Line:
    slope = parallel - len(relaxed.execution.running)
    return _Line(relaxed.bound - slope * relaxed.certificate.running_price, slope)


def most_bytes_running(graph: Graph, execution: Execution, parallel: int | None) -> tuple[int, Execution]:
    """(bytes, execution) of the most that `execution` holds with at most `parallel` of its running ops.

    What an op adds by starting does not depend on the other running ops, so those that add least are not started.
    """
    running = execution.running
    if parallel is not None and len(running) > parallel:
        by_bytes = sorted(running, key=lambda op: (-graph.output_bytes[op] - graph.ops[op].workspace, op))
        execution = Execution(execution.completed, tuple(sorted({*execution.completed, *by_bytes[:parallel]})))
    return bytes_held(graph, execution), execution

"""Serenity's dynamic program over down-sets with an adaptive soft budget, for comparison.

Ahn et al., "Ordering Chaos: Memory-Aware Scheduling of Irregularly Wired Neural Networks for Edge Devices", MLSys 2020.
After i ops have run, all that matters is *which* ran (the paper's signature is the set of ready ops, which says the
same): of two ways to the same set only the one of lower peak is kept.  One pass over i = 0, 1, ..., n is exact and
exponential; a *soft budget* of bytes prunes every partial order above it and keeps the sets few:

    budget too high  ──>  too many sets at some i ("timeout")       ──>  lower it
    budget too low   ──>  no set left at some i   ("no solution")   ──>  raise it
    between          ──>  the optimum, since every order that meets the budget was followed

The search starts from the peak of a known order (the hard budget) and halves the interval, as in the paper.  The
paper's graph rewriting is out of scope (it changes the ops), and so is its split at single-op cuts.
"""

from __future__ import annotations

from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes

__all__ = ["serenity_order"]


def serenity_order(graph: Graph, max_sets: int = 2_000, max_rounds: int = 24) -> tuple[int, ...] | None:
    """An optimal order, or None when no soft budget tried leaves at most `max_sets` down-sets at every step.

    max_sets: down-sets that may be kept after the same number of ops (the paper's time limit per step).
    max_rounds: soft budgets that may be tried.
    """
    program = _Program(graph)
    too_low = max(graph.start_bytes, graph.end_bytes) - 1
    hard_budget = too_high = peak_bytes(graph, graph.topological_order)
    soft_budget = hard_budget
    for _ in range(max_rounds):
        outcome = program.run(soft_budget, max_sets)
        if isinstance(outcome, tuple):
            return outcome
        if outcome == "no solution":
            too_low = soft_budget
        else:
            too_high = soft_budget
        if too_high - too_low <= 1:
            return None
        soft_budget = (too_low + too_high) // 2
    return None


@dataclass(frozen=True, slots=True)
class _Partial:
    """The cheapest known way to a down-set: peak so far, level, last op, the partial order before it, the ready ops."""

    peak: int
    level: int
    op: int
    before: _Partial | None
    ready: tuple[int, ...]


class _Program:
    """The dynamic program; down-sets are bits of a number."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.before = [sum(1 << other for other in others) for others in graph.predecessors]
        self.hump = [graph.output_bytes[op] + graph.ops[op].workspace for op in range(len(graph))]
        self.net = [
            sum(graph.buffers[index].size for index in outputs if _outlives_its_producer(graph, index))
            for outputs in graph.outputs_of
        ]
        self.frees: list[list[tuple[int, int]]] = [[] for _ in graph.ops]
        for buffer in graph.buffers:
            if not buffer.kept:
                readers = sum(1 << reader for reader in buffer.consumers)
                for reader in buffer.consumers:
                    self.frees[reader].append((readers, buffer.size))

    def run(self, soft_budget: int, max_sets: int) -> tuple[int, ...] | str:
        """The optimal order, "no solution" (none meets the budget) or "timeout" (too many down-sets)."""
        first = tuple(op for op, before in enumerate(self.before) if not before)
        sets = {0: _Partial(self.graph.start_bytes, self.graph.start_bytes, -1, None, first)}
        for _ in self.graph.ops:
            following: dict[int, _Partial] = {}
            for done, partial in sets.items():
                self._extend(done, partial, soft_budget, following)
                if len(following) > max_sets:
                    return "timeout"
            if not following:
                return "no solution"
            sets = following
        (partial,) = sets.values()
        return _order_of(partial)

    def _extend(self, done: int, partial: _Partial, soft_budget: int, following: dict[int, _Partial]) -> None:
        """Offer every down-set that is one op larger."""
        for op in partial.ready:
            peak = max(partial.peak, partial.level + self.hump[op])
            after = done | 1 << op
            known = following.get(after)
            if peak > soft_budget or (known is not None and known.peak <= peak):
                continue
            if known is None:
                freed = sum(size for readers, size in self.frees[op] if not readers & ~after)
                level = partial.level + self.net[op] - freed
                ready = tuple(other for other in partial.ready if other != op) + tuple(
                    other for other in self.graph.successors[op] if not self.before[other] & ~after
                )
            else:
                level, ready = known.level, known.ready
            following[after] = _Partial(peak, level, op, partial, ready)


def _order_of(last: _Partial | None) -> tuple[int, ...]:
    order: list[int] = []
    while last is not None and last.before is not None:
        order.append(last.op)
        last = last.before
    return tuple(reversed(order))


def _outlives_its_producer(graph: Graph, index: int) -> bool:
    return graph.buffers[index].kept or bool(graph.buffers[index].consumers)

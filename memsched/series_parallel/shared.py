"""Buffers that several ops may be the last to read: exactness, lower bound, fixpoint.

*Exactness.*  Drop from the consumers of a buffer every one that precedes another.  If one is left, it reads last in
every order, and `order.py` is exact.  If several are left, the buffer is *shared* and who frees it depends on the
order; already on out-trees the problem is then weakly NP-hard (tests/series_parallel/test_shared.py holds the
reduction).

        a ──X──> b          X has the maximal consumers b and c: shared.
        └──X──> c           With an edge b -> c it would not be: c always frees it.

*Lower bound.*  Let any consumers of X free it, in any shares.  At every point of every order the relaxed memory is at
most the true one (X is freed in part, or in full when some designated op has run, while really it stays until all
have), so the optimum of the relaxed problem, which is modular and solved exactly, bounds every order from below.

*Fixpoint.*  Take the order that is optimal for one designation, designate the op that really reads last in it, solve
again.  If nothing changes, relaxed and true memory agree on this order: it is optimal, and bound = peak proves it.
In general bound <= optimum <= peak, and the bound is the best over all designations tried: equal shares, the last
reader in the incoming order, and a few restarts from the seed.

Source: the relaxation of a supermodular saving by one of its modular lower bounds; no published reference for the
fixpoint is known to us.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Schedule, TreeCertificate, status_of
from memsched.series_parallel.order import (
    Freers,
    maximal_consumers,
    modular_problem,
    order_of_least_peak,
)
from memsched.series_parallel.recognize import Decomposition, recognize
from memsched.series_parallel.tree import Tree, to_json

__all__ = [
    "OPS_PER_UNIT",
    "Relaxation",
    "WorkBudget",
    "is_exact",
    "shared_buffers",
    "solve_series_parallel",
    "solve_tree",
]

_MAX_PASSES = 100
_MAX_OPS_WITHOUT_BUDGET = 400_000
_MIN_PASSES = 8
_CHANGED_SHARE = 0.15


OPS_PER_UNIT = 6
"""A pass over six ops takes about as long as one unit of `memsched.search.budget` (50 microseconds)."""


class WorkBudget(Protocol):
    """What this module needs of `memsched.search.budget.Budget`, which lives in a higher layer."""

    def spend(self, units: int = 1) -> bool:
        """Take `units`; False once the budget is exhausted."""


def shared_buffers(consumers: Sequence[Sequence[int]]) -> list[int]:
    """The buffers with several maximal consumers (`order.maximal_consumers`)."""
    return [index for index, maximal in enumerate(consumers) if len(maximal) > 1]


def is_exact(graph: Graph, tree: Tree) -> bool:
    """Whether every buffer has one op that frees it in every order, so that the peak of the tree is the optimum."""
    return not shared_buffers(maximal_consumers(graph, tree))


@dataclass(slots=True)
class Relaxation:
    """The best order and the best bound so far, over all designations that were tried; bytes.

    `freed_by` is the designation that gives `bound`: (buffer, op) for the shared buffers only, as in TreeCertificate.
    """

    graph: Graph
    tree: Tree
    consumers: list[tuple[int, ...]]
    order: tuple[int, ...]
    peak: int
    bound: int = -1
    freed_by: tuple[tuple[int, int], ...] = ()
    passes: int = 0
    tried: set[tuple[tuple[int, ...], ...]] = field(default_factory=set)

    @property
    def closed(self) -> bool:
        """Whether the order is proved optimal."""
        return self.bound == self.peak

    def try_freers(self, freers: Freers) -> tuple[int, ...]:
        """Solve the problem in which `freers` free the buffers; keep what is better; return its order."""
        problem = modular_problem(self.graph, freers)
        order = order_of_least_peak(self.tree, problem)
        self.passes += 1
        bound = problem.peak_of(order)
        if bound > self.bound:
            self.bound = bound
            shared = shared_buffers(self.consumers)
            self.freed_by = tuple((index, op) for index in shared for op in freers[index])
        peak = peak_bytes(self.graph, order)
        if peak < self.peak:
            self.peak, self.order = peak, order
        return order

    def last_readers(self, order: Sequence[int]) -> list[tuple[int, ...]]:
        """For each buffer the one op that reads it last in `order`."""
        place = {op: at for at, op in enumerate(order)}
        return [(max(maximal, key=place.__getitem__),) if maximal else () for maximal in self.consumers]


def solve_series_parallel(graph: Graph, budget: WorkBudget | None = None) -> Schedule | None:
    """The best order found and the best bound proved, or None when the order of `graph` is not series-parallel.

    Optimal when no buffer is shared.  Never above the peak of the incoming order.  Deterministic; `budget` limits the
    number of designations tried (one always is).
    """
    started = time.thread_time()
    found = recognize(graph)
    if not isinstance(found, Decomposition):
        return None
    relaxation = solve_tree(graph, found.tree, budget)
    return Schedule(
        order=relaxation.order,
        peak=relaxation.peak,
        lower_bound=relaxation.bound,
        status=status_of(relaxation.peak, relaxation.bound),
        method="series-parallel",
        seconds=time.thread_time() - started,
        certificate=TreeCertificate(relaxation.bound, to_json(found.tree), relaxation.freed_by),
        note="" if relaxation.closed else f"{len(relaxation.freed_by)} designated freers, {relaxation.passes} passes",
    )


def solve_tree(graph: Graph, tree: Tree, budget: WorkBudget | None = None) -> Relaxation:
    """The relaxations of `graph`, whose decomposition is `tree`: equal shares, then the fixpoint from a few starts."""
    consumers = maximal_consumers(graph, tree)
    incoming = graph.topological_order
    relaxation = Relaxation(graph, tree, consumers, incoming, peak_bytes(graph, incoming))
    if not shared_buffers(consumers):
        relaxation.try_freers(consumers)
        return relaxation
    passes = _Passes(len(graph.ops), budget)
    order = relaxation.try_freers(consumers)
    _iterate(relaxation, relaxation.last_readers(order), passes)
    _iterate(relaxation, relaxation.last_readers(incoming), passes)
    rng = random.Random(0)
    while not relaxation.closed and passes.left:
        _iterate(relaxation, _restart(relaxation, rng), passes)
    return relaxation


class _Passes:
    """How many more designations may be tried."""

    def __init__(self, num_ops: int, budget: WorkBudget | None) -> None:
        self.left = _MAX_PASSES
        self.budget, self.units = budget, max(1, num_ops // OPS_PER_UNIT)
        if budget is None:
            self.left = max(_MIN_PASSES, min(_MAX_PASSES, _MAX_OPS_WITHOUT_BUDGET // num_ops))

    def take(self) -> bool:
        """Whether one more may be tried; counts it."""
        if self.left and self.budget is not None and not self.budget.spend(self.units):
            self.left = 0
        if not self.left:
            return False
        self.left -= 1
        return True


def _iterate(relaxation: Relaxation, freers: list[tuple[int, ...]], passes: _Passes) -> None:
    """The fixpoint from one designation: until it is closed, or comes back to one that was tried before."""
    while not relaxation.closed and passes.take() and tuple(freers) not in relaxation.tried:
        relaxation.tried.add(tuple(freers))
        freers = relaxation.last_readers(relaxation.try_freers(freers))


def _restart(relaxation: Relaxation, rng: random.Random) -> list[tuple[int, ...]]:
    """The last readers of the best order, some of them (every second time: all of them) drawn anew."""
    freers = relaxation.last_readers(relaxation.order)
    changed = 1.0 if rng.random() < 0.5 else _CHANGED_SHARE
    for index in shared_buffers(relaxation.consumers):
        if rng.random() < changed:
            freers[index] = (rng.choice(relaxation.consumers[index]),)
    return freers

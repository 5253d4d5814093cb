"""From a refutation by probing to a certificate that needs no search to follow.

Probing (`memsched.search.refute.probing`) on the graph itself, one node for each op, leaves a list of cuts: each one
forced a precedence, the last one is a contradiction.  Here every cut is computed once more, now with its maximum flow,
which is what `memsched.check.certificate.check_certificate` follows.

Most of the precedences do not matter for the contradiction.  A cut depends on those that its flow uses and those that
decide which ops have run before and after; going backwards from the last cut, only what some later cut depends on is
kept:

    1: a -> b    2: c -> d    3: b -> d (by 1)    4: d cannot run (by 3)        2 is left out
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memsched.core.graph import Graph
from memsched.core.result import ForcedPrecedence, ForcingCertificate
from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.cuts.cuts import Cut, CutSolver
from memsched.search.refute.probing import Forced

__all__ = ["forcing_certificate"]


_MOST_FLOW_ARCS = 150_000
"""Larger certificates (about 3 MB of JSON) are not worth their bytes."""

Precedence = tuple[int, int]


def forcing_certificate(
    graph: Graph, bound: int, forced: Sequence[Forced], budget: Budget
) -> ForcingCertificate | None:
    """The certificate that no order of `graph` peaks below `bound` bytes; None when the budget ends or it is too large.

    `forced` refutes the level just below the bound; its nodes are the ops of `graph`.
    """
    if not forced or forced[-1].other is not None:
        return None
    solver = CutSolver(graph)
    steps: list[tuple[Forced, ForcedPrecedence, set[Precedence]]] = []
    added: set[Precedence] = set()
    for step in forced:
        earlier = [step.other] if step.other is not None and step.other_first else []
        later = [step.other] if step.other is not None and not step.other_first else []
        cut = solver.cut_at(step.node, earlier=earlier, later=later)
        if cut is None or cut.bound < bound or not budget.spend(1 + solver.work // prices.CUT_WORK):
            return None
        steps.append((step, _with_flow(step, cut), _precedences_used(solver, step, cut, added)))
        for first, second in _precedence_of(step):
            solver.require(first, second)
            added.add((first, second))
    kept = _needed(steps)
    num_arcs = sum(len(step.reader_flow) + len(step.precedence_flow) for step in kept)
    return ForcingCertificate(bound, kept) if num_arcs <= _MOST_FLOW_ARCS else None


def _with_flow(step: Forced, cut: Cut) -> ForcedPrecedence:
    found = cut.certificate()
    return ForcedPrecedence(step.node, step.other, step.other_first, found.reader_flow, found.precedence_flow)


def _precedence_of(step: Forced) -> list[Precedence]:
    """What a step forces, (before, after); nothing for the contradiction."""
    if step.other is None:
        return []
    return [(step.node, step.other) if step.other_first else (step.other, step.node)]


def _precedences_used(solver: CutSolver, step: Forced, cut: Cut, added: set[Precedence]) -> set[Precedence]:
    """Of the precedences added so far those on which the cut of a step depends."""
    used = {(before, op) for op, before, arc in cut.network.precedence_arcs if cut.flow.arc_flows[arc]}
    earlier, later = [step.node], [step.node]
    if step.other is not None:
        (earlier if step.other_first else later).append(step.other)
    used.update((first, second) for second, first in _tree(earlier, solver.predecessors))
    used.update(_tree(later, solver.successors))
    return used & added


def _tree(ops: Iterable[int], neighbours: Sequence[Sequence[int]]) -> list[Precedence]:
    """Arcs (from, to) over which everything that can be reached from `ops` is reached."""
    arcs: list[Precedence] = []
    queue = list(ops)
    seen = set(queue)
    for op in queue:
        for other in neighbours[op]:
            if other not in seen:
                seen.add(other)
                queue.append(other)
                arcs.append((op, other))
    return arcs


def _needed(steps: Sequence[tuple[Forced, ForcedPrecedence, set[Precedence]]]) -> tuple[ForcedPrecedence, ...]:
    """The last step and those whose precedence a later needed step uses, in order."""
    wanted: set[Precedence] = set()
    kept: list[ForcedPrecedence] = []
    for step, precedence, used in reversed(steps):
        if step.other is None or not wanted.isdisjoint(_precedence_of(step)):
            kept.append(precedence)
            wanted |= used
    return tuple(reversed(kept))

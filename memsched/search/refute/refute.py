"""Beat an order or prove it best: probing first, then exact search under the precedences that probing leaves.

The question is one level, the one just below the peak of the best order.  Probing (`memsched.search.refute.probing`)
either refutes it or adds precedences that every order below that peak respects.  These make the down-sets few, so exact
search (`memsched.search.exact.valley`) gets much further on the stronger problem than on the graph:

    graph ──probe──> refuted, with a certificate                      the order is best
             └────> stronger problem ──search──> nothing below        the order is best
                                        ├──────> an order below       the order is beaten
                                        └──────> out of budget        once more on the kernel, then bisect

The first attempt probes the graph itself, op by op: only that leaves a certificate that can be followed without any
other theorem.  The second one breaks symmetries, or, where there are none, goes on with the kernel of the stronger
problem.  The bound that the search proves holds for orders of the stronger problem; any other order is not below the
peak in the first place, so the smaller of the two bounds holds for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memsched.check.certificate import check_certificate
from memsched.core.graph import Graph
from memsched.core.result import Certificate, ForcingCertificate, StatementCertificate
from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.exact.problem import Problem
from memsched.search.exact.reduce import reduce_series_parallel
from memsched.search.exact.symmetry import break_symmetries
from memsched.search.exact.valley import ExactResult, exact_search
from memsched.search.refute.certify import forcing_certificate
from memsched.search.refute.probing import Forced, Probed, hottest_nodes, probe_bound, probe_level

__all__ = ["Refutation", "certified", "refute", "search_within"]

_PROBE_SHARE = 0.8
_SEARCH_SHARE = 0.4
_NODES_PER_WORD = 1000
"""Nodes up to which masks cost nothing; above, a state costs as the square of their number."""


@dataclass(frozen=True, slots=True)
class Refutation:
    """An order of the graph below the peak that was asked about, if one was found; the best bound, and why it holds."""

    order: tuple[int, ...] | None
    certificate: Certificate


def refute(graph: Graph, *, lower_bound: int, upper_bound: int, budget: Budget) -> Refutation:
    """Look for an order below `upper_bound` bytes, the peak of a known order, or prove that there is none."""
    problem = Problem.from_graph(graph)
    probed = _probe_below(problem, upper_bound, budget)
    if probed.problem is None:
        return Refutation(None, _certificate(graph, upper_bound, probed.forced, budget))
    stronger = reduce_series_parallel(probed.problem)
    found = _search_below(stronger, lower_bound, upper_bound, budget)
    if found.complete:
        return _searched(stronger, found)
    if budget.exhausted_by_now():
        return Refutation(None, _statement(found.lower_bound, found.states))
    kernel = reduce_series_parallel(problem)
    broken = break_symmetries(kernel, budget)
    candidate = stronger if broken is kernel else broken
    probed = _probe_below(candidate, upper_bound, budget)
    if probed.problem is None:
        return Refutation(None, _statement(upper_bound))
    found = _search_below(probed.problem, max(lower_bound, found.lower_bound), upper_bound, budget)
    if found.complete:
        return _searched(probed.problem, found)
    bound = probe_bound(broken, lower_bound=found.lower_bound, upper_bound=upper_bound, budget=budget)
    return Refutation(None, _statement(bound, found.states))


def certified(graph: Graph, bound: int, budget: Budget) -> ForcingCertificate | None:
    """A certificate that no order of `graph` peaks below `bound` bytes, if probing the graph itself finds one."""
    probed = _probe_below(Problem.from_graph(graph), bound, budget)
    certificate = None if probed.problem is not None else _certificate(graph, bound, probed.forced, budget)
    return certificate if isinstance(certificate, ForcingCertificate) else None


def _probe_below(problem: Problem, upper_bound: int, budget: Budget) -> Probed:
    """What an order below `upper_bound` has to respect, as far as a share of the budget goes."""
    with budget.share(_PROBE_SHARE) as share:
        probed = probe_level(problem, upper_bound - 1, share, hottest_nodes(problem, share))
    return probed


def _search_below(problem: Problem, lower_bound: int, upper_bound: int, budget: Budget) -> ExactResult:
    with budget.share(_SEARCH_SHARE) as share:
        found = search_within(problem, lower_bound=lower_bound, upper_bound=upper_bound, budget=share)
    return found


def _searched(problem: Problem, found: ExactResult) -> Refutation:
    order = None if found.order is None else problem.lift(found.order)
    return Refutation(order, _statement(found.lower_bound, found.states))


def _certificate(graph: Graph, bound: int, forced: Sequence[Forced], budget: Budget) -> Certificate:
    """The certificate of a refutation, checked; a statement when it would be too large."""
    certificate = forcing_certificate(graph, bound, forced, budget)
    if certificate is None:
        return _statement(bound)
    check_certificate(graph, certificate, bound)
    return certificate


def _statement(bound: int, states: int = 0) -> StatementCertificate:
    statement = "every lower peak was refuted by minimum cuts under the precedences that it would force"
    if states:
        statement += f", or by exact search over {states} down-sets that respect them"
    return StatementCertificate(bound, "probing", statement)


def search_within(
    problem: Problem,
    *,
    lower_bound: int,
    upper_bound: int,
    budget: Budget,
    incumbent: Sequence[int] | None = None,
) -> ExactResult:
    """`exact_search` with as many states as the units of `budget` are worth."""
    units_per_mask = 1 + (len(problem) // _NODES_PER_WORD) ** 2
    bought = budget.units * prices.EXACT_STATES // units_per_mask
    states = Budget(bought, budget.deadline)
    found = exact_search(problem, lower_bound=lower_bound, upper_bound=upper_bound, budget=states, incumbent=incumbent)
    budget.spend((bought - states.units) * units_per_mask // prices.EXACT_STATES)
    budget.timed_out = budget.timed_out or states.timed_out
    return found

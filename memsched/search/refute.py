"""Beat an order or prove it best: probing first, then exact search under the precedences that probing leaves.

The question is one level, the one just below the peak of the best order.  Probing (`memsched.search.probing`) either
refutes it or adds precedences that every order below that peak respects.  These make the down-sets few, so exact search
(`memsched.search.valley`) gets much further on the stronger problem than on the problem itself:

    problem ──probe──> refuted                                        the order is best
               └────> stronger problem ──search──> nothing below      the order is best
                                          ├──────> an order below     the order is beaten
                                          └──────> out of budget      again with symmetries broken, then bisect

The bound that the search proves holds for orders of the stronger problem; any other order is not below the peak in the
first place, so the smaller of the two bounds holds for all.  Symmetries are broken second, because that takes time on
large graphs and few need it.
"""

from __future__ import annotations

from collections.abc import Sequence

from memsched.search.budget import Budget
from memsched.search.probing import hottest_nodes, probe_bound, probe_level
from memsched.search.problem import Problem
from memsched.search.symmetry import break_symmetries
from memsched.search.valley import ExactResult, exact_search

__all__ = ["refute", "search_within"]

_PROBE_SHARE = 0.75
_SEARCH_SHARE = 0.4
_STATES_PER_UNIT = 4
"""States that a search generates for one unit of work (about 50 microseconds), on graphs of up to a thousand nodes."""
_NODES_PER_WORD = 1000
"""Nodes up to which masks cost nothing; above, a state costs as the square of their number."""


def refute(problem: Problem, *, lower_bound: int, upper_bound: int, budget: Budget) -> ExactResult:
    """Look for an order below `upper_bound` bytes, the peak of a known order, or prove that there is none.

    The order that is returned, if any, numbers the nodes of `problem`; the bound holds for all its orders.
    """
    states = 0
    candidate = problem
    for attempt in (0, 1):
        if attempt:
            candidate = break_symmetries(problem, budget)
            if candidate is problem:
                break
        stronger = _probed(candidate, upper_bound - 1, budget)
        if stronger is None:
            return ExactResult(None, upper_bound, states, True)
        share = budget.part(_SEARCH_SHARE)
        found = search_within(stronger, lower_bound=lower_bound, upper_bound=upper_bound, budget=share)
        budget.give_back(share)
        states += found.states
        if found.complete:
            return ExactResult(found.order, found.lower_bound, states, True)
        lower_bound = max(lower_bound, found.lower_bound)
    bound = probe_bound(candidate, lower_bound=lower_bound, upper_bound=upper_bound, budget=budget)
    return ExactResult(None, bound, states, bound == upper_bound)


def _probed(problem: Problem, level: int, budget: Budget) -> Problem | None:
    """The problem with what an order of at most `level` has to respect, as far as a share of the budget goes."""
    share = budget.part(_PROBE_SHARE)
    stronger = probe_level(problem, level, share, hottest_nodes(problem, share))
    budget.give_back(share)
    return stronger


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
    bought = budget.units * _STATES_PER_UNIT // units_per_mask
    states = Budget(bought, budget.deadline)
    found = exact_search(
        problem, lower_bound=lower_bound, upper_bound=upper_bound, budget=states, incumbent=incumbent
    )
    budget.spend((bought - states.units) * units_per_mask // _STATES_PER_UNIT)
    budget.timed_out = budget.timed_out or states.timed_out
    return found

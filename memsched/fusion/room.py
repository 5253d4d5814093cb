"""Making room: an order in which a fusion fits that does not fit where the plan stands.

A refused fusion is refused for one order.  Contract the two groups and ask the whole graph again:

    plan        ... A x y z B ...      wherever AB goes in this window, it needs 7 bytes of a budget of 6
    contracted  the least down-set with which AB can start (one minimum cut, `memsched.search.cuts.cuts`)
                  above 6:   no order whatsoever runs AB within the budget; the refusal is final for these groups
                  otherwise: local search from the plan's order, which stops as soon as it needs 6 or less

Everything is counted in units of work, so the answer does not depend on the clock.
"""

from __future__ import annotations

from memsched.core.peak import peak_bytes
from memsched.fusion.contract import contract
from memsched.fusion.groups import Groups, Placement
from memsched.fusion.in_place import shared_storages
from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.cuts.cuts import CutSolver
from memsched.search.local.search import improve

__all__ = ["make_room"]


def make_room(groups: Groups, placement: Placement, limit: int, budget: Budget, units: int) -> tuple[int, ...] | None:
    """An order of the groups, `placement.first` standing for both, that needs at most `limit` bytes; None without one.

    budget: pays for the search, at most `units` of it.
    """
    if budget.exhausted:
        return None
    order = groups.order_after(placement)
    members = [groups.members[group] for group in order]
    at = order.index(placement.first)
    members[at] = members[at] + groups.members[placement.second]
    graph = contract(groups.graph, members)
    if over := groups.overwritten(placement):
        graph = shared_storages(graph, over)
    cuts = CutSolver(graph)
    cut = cuts.cut_at(at)
    assert cut is not None
    budget.spend(1 + len(groups.graph) // prices.CONTRACTED_OPS + cuts.work // prices.CUT_WORK_IN_LOCAL_SEARCH)
    if cut.bound > limit or budget.exhausted:
        return None
    share = Budget(min(units, budget.units), budget.deadline)
    given = share.units
    found = improve(graph, range(len(order)), floor=limit, budget=share)
    budget.spend(given - share.units)
    return tuple(order[op] for op in found) if peak_bytes(graph, found) <= limit else None

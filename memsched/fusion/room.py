"""Making room: an order in which a fusion fits that does not fit where the plan stands.

A refused fusion is refused for one order.  Contract the two groups and ask the whole graph again:

    plan        ... A x y z B ...      wherever AB goes in this window, it needs 7 bytes of a budget of 6
    contracted  the least down-set with which AB can start (one minimum cut, `memsched.search.cuts.cuts`)
                  above 6:   no order whatsoever runs AB within the budget; the refusal is final for these groups
                  otherwise: local search from the plan's order, which stops as soon as it needs 6 or less

The same search brings the plan down where fusions have lowered its peak, and another place binds:

    before      an update in four kernels needs 4 tables at once; below that, tables that wait lie as they come
    fused       the update needs 1 table: now the tables that wait bind, in an order that nobody has looked at

Everything is counted in units of work, so the answer does not depend on the clock.
"""

from __future__ import annotations

from memsched.core.graph import Graph
from memsched.core.peak import memory_profile, peak_bytes
from memsched.fusion.contract import contract
from memsched.fusion.groups import Groups, Placement
from memsched.fusion.in_place import shared_storages
from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.cuts.cuts import CutSolver
from memsched.search.local.search import improve

__all__ = ["lower_order", "make_room"]


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
    found = _searched(groups, graph, at, limit, budget, units, floor=limit)
    return None if found is None or peak_bytes(graph, found) > limit else tuple(order[op] for op in found)


def lower_order(groups: Groups, wanted: int, budget: Budget, units: int) -> None:
    """Put the groups into an order with a lower peak, if one is found.

    wanted: bytes; if one minimum cut shows that no order needs as little, none is looked for.
    budget: pays for the search, at most `units` of it.
    """
    peak, order = groups.peak(), groups.order()
    graph = contract(groups.graph, [groups.members[group] for group in order])
    planned = memory_profile(graph, range(len(order)))
    found = _searched(groups, graph, planned.peak_step, wanted, budget, units)
    if found is not None and peak_bytes(graph, found) < planned.peak:
        groups.reorder([order[op] for op in found])
        if groups.peak() > peak:  # what is written in place is known to the groups alone
            groups.reorder(order)


def _searched(
    groups: Groups, graph: Graph, at: int, limit: int, budget: Budget, units: int, floor: int | None = None
) -> tuple[int, ...] | None:
    """An order of `graph`, to which the groups were contracted along their order; None where there is none to be found.

    at: the op of `graph` that binds: if its least down-set is above `limit`, no order is within it.
    floor: bytes at which the search ends; None for those of that down-set.
    """
    cuts = CutSolver(graph)
    cut = cuts.cut_at(at)
    assert cut is not None
    budget.spend(1 + len(groups.graph) // prices.CONTRACTED_OPS + cuts.work // prices.CUT_WORK_IN_LOCAL_SEARCH)
    if cut.bound > limit or budget.exhausted:
        return None
    share = Budget(min(units, budget.units), budget.deadline)
    given = share.units
    found = improve(graph, range(len(graph)), floor=cut.bound if floor is None else floor, budget=share)
    budget.spend(given - share.units)
    return found

"""The order of the groups, searched again: where fusions have lowered the peak, another place binds.

    before     an update in four kernels needs 4 tables at once; below that, tables that wait lie as they come
    fused      the update needs 1 table: now the tables that wait bind, in an order that nobody has looked at

The search is that for the plan before fusion, on the graph in which each group is one op.
"""

from __future__ import annotations

from memsched.core.peak import memory_profile, peak_bytes
from memsched.fusion.contract import contract
from memsched.fusion.groups import Groups
from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.cuts.cuts import CutSolver
from memsched.search.local.search import improve

__all__ = ["lower_order"]


def lower_order(groups: Groups, wanted: int, budget: Budget, units: int) -> None:
    """Put the groups into an order with a lower peak, if one is found.

    wanted: bytes; if one minimum cut shows that no order needs as little, none is looked for.
    budget: pays for the search, at most `units` of it.
    """
    peak, order = groups.peak(), groups.order()
    graph = contract(groups.graph, [groups.members[group] for group in order])
    cuts = CutSolver(graph)
    cut = cuts.cut_at(memory_profile(graph, range(len(order))).peak_step)
    assert cut is not None
    budget.spend(1 + len(groups.graph) // prices.CONTRACTED_OPS + cuts.work // prices.CUT_WORK_IN_LOCAL_SEARCH)
    if cut.bound > wanted or budget.exhausted:
        return
    share = Budget(min(units, budget.units), budget.deadline)
    given = share.units
    found = improve(graph, range(len(order)), floor=cut.bound, budget=share)
    budget.spend(given - share.units)
    if peak_bytes(graph, found) < peak_bytes(graph, range(len(order))):
        groups.reorder([order[at] for at in found])
        if groups.peak() > peak:  # what is written in place is known to the groups alone
            groups.reorder(order)

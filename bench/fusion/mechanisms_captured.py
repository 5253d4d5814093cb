"""The mechanisms of `bench.fusion.mechanisms` on a captured pair, such as the realistic CUDA graph of two traversals.

Stock's kernels are recovered from the names of its fused ops; a rule takes fusions away from them.  Within a kernel two
ops are joined when one reads the other, or, for a horizontal fusion, when they read the same buffer; a rule drops some
of these links, and what still hangs together is a kernel.  The graph does not say which ops are reductions: here one
that writes at most a quarter of what it reads counts as one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.fusion.kept import read_pair
from memsched.core.graph import Graph, GraphError
from memsched.core.peak import peak_bytes
from memsched.core.result import Options
from memsched.fusion.choose import choose_fusions
from memsched.fusion.contract import contract
from memsched.search.orders.inductor import post_order, priority_order, stock_orders
from memsched.search.solver import solve

__all__ = ["rules_on_captured"]

_SHRINKS = 4
_OPTIONS = Options(time_limit_s=60, work_limit=40_000, use_ilp=False)

Kernels = Sequence[Sequence[int]]


def rules_on_captured(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one pair, in the form of `bench.fusion.mechanisms.row_of`."""
    graph, wanted = read_pair(folder, name)
    ancestors = graph.ancestors
    rules: dict[str, Kernels] = {"stock": wanted}
    for rule, waiting, horizontal in (
        ("no waiting", False, True),
        ("no horizontal", True, False),
        ("neither", False, False),
    ):
        rules[rule] = [part for ops in wanted for part in _parts(graph, ancestors, ops, waiting, horizontal)]
    rows = [_row(graph, rule, kernels) for rule, kernels in rules.items()]
    plan = solve(graph, _OPTIONS)
    choice = choose_fusions(graph, wanted, plan.order, plan.peak, priorities=["traffic"])
    return [*rows, _row(graph, "memsched", choice.kernels, planned=True)]


def _parts(graph: Graph, ancestors: Sequence[int], ops: Sequence[int], waiting: bool, horizontal: bool) -> Kernels:
    """What hangs together of a kernel when only some kinds of fusions are allowed."""
    part = {op: {op} for op in ops}
    for first, second in itertools.combinations(sorted(ops), 2):
        if second in graph.successors[first]:
            allowed = waiting or not (_is_reduction(graph, first) and _waits(ancestors, first, second))
        else:
            shared = set(graph.inputs_of[first]) & set(graph.inputs_of[second])
            allowed = horizontal and bool(shared)
        if allowed and part[first] is not part[second]:
            part[first] |= part[second]
            for op in part[second]:
                part[op] = part[first]
    return [sorted(members) for members in {id(members): members for members in part.values()}.values()]


def _is_reduction(graph: Graph, op: int) -> bool:
    read = sum(graph.buffers[buffer].size for buffer in graph.inputs_of[op])
    return graph.output_bytes[op] * _SHRINKS <= read


def _waits(ancestors: Sequence[int], first: int, second: int) -> bool:
    return bool(ancestors[second] & ~ancestors[first] & ~(1 << first))


def _row(graph: Graph, rule: str, kernels: Kernels, planned: bool = False) -> dict[str, Any]:
    by_first = sorted(map(list, kernels), key=min)
    try:
        fused = contract(graph, by_first)
    except GraphError:
        return {}
    incoming = post_order(fused.predecessors, [(op,) for op in range(len(fused))], range(len(fused)))
    by_place = priority_order(fused, [ops[0] for ops in by_first])
    sorted_first = contract(graph, [by_first[op] for op in incoming])
    best = solve(fused, _OPTIONS) if planned else None
    peak = best.peak if best else min(peak_bytes(sorted_first, order) for order in stock_orders(sorted_first).values())
    return {
        "rule": rule,
        "graph": "backward",
        "before": peak_bytes(graph, graph.topological_order),
        "before_best": min(peak_bytes(graph, order) for order in stock_orders(graph).values()),
        "incoming": peak_bytes(fused, incoming),
        "by_place": peak_bytes(fused, by_place),
        "peak": peak,
        "lower_bound": best.lower_bound if best else 0,
        "kernels": len(fused),
        "refusals": [],
        "num_refusals": 0,
    }

"""Bounds and local search against brute force.

For every random graph: the cut bound is not above the optimum and its certificate holds; the local search returns a
valid order that is not worse than its start and not below the optimum; Serenity's program, where it answers, is exact.
`tight` and `optimal` count how often bound and local search meet the optimum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from memsched.check.certificate import check_certificate
from memsched.check.error import CheckError
from memsched.check.order import check_order
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.search.budget import Budget
from memsched.search.cuts.bounds import cut_bound
from memsched.search.local.search import improve
from memsched.search.orders.inductor import stock_orders
from memsched.search.orders.serenity import serenity_order
from memsched.search.orders.xla import xla_orders
from tests.oracle import brute_force_peak, random_graphs

COUNT = 100_000

_UNITS = 100
"""Of local search per graph: enough for most, few enough for the full count in half an hour."""


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, object]:
    """Counts over `count` random graphs of 4 to 12 ops; "wrong" must be 0."""
    counts: Counter[str] = Counter()
    for done, graph in enumerate(random_graphs(count, seed), start=1):
        optimum = brute_force_peak(graph)
        for fault in (_bound_fault(graph, optimum, counts), _order_fault(graph, optimum, seed, counts)):
            counts["wrong"] += bool(fault)
            counts[f"wrong: {fault}"] += bool(fault)
        progress(done)
    return {"instances": count, "wrong": counts.pop("wrong", 0), **{key: n for key, n in counts.items() if n}}


def _bound_fault(graph: Graph, optimum: int, counts: Counter[str]) -> str:
    """What is wrong with the cut bound of `graph`, or nothing."""
    bound, certificate = cut_bound(graph)
    counts["tight"] += bound == optimum
    try:
        proved = check_certificate(graph, certificate, bound)
    except CheckError:
        return "certificate"
    if bound > optimum:
        return "bound above the optimum"
    return "" if proved else "bound without proof"


def _order_fault(graph: Graph, optimum: int, seed: int, counts: Counter[str]) -> str:
    """What is wrong with the orders of `graph`, or nothing."""
    start = graph.topological_order
    order = improve(graph, start, budget=Budget(_UNITS), seed=seed)
    counts["optimal"] += peak_bytes(graph, order) == optimum
    exact = serenity_order(graph)
    try:
        for other in (order, *stock_orders(graph).values(), *xla_orders(graph).values()):
            check_order(graph, other)
            if peak_bytes(graph, other) < optimum:
                return "peak below the optimum"
    except CheckError:
        return "order"
    if peak_bytes(graph, order) > peak_bytes(graph, start):
        return "worse than its start"
    if exact is not None and peak_bytes(graph, exact) != optimum:
        return "serenity"
    return ""

"""Series-parallel campaign: the polynomial algorithm and its certificates against brute force on 4 to 12 ops.

Graphs are in-trees, out-trees, two-terminal and vertex series-parallel, every second one with shared buffers.
Without them the order must be optimal; with them bound <= optimum <= peak, and OPTIMAL only when all three agree.
Every certificate is checked by `memsched.check.certificate`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from memsched.check.certificate import check_certificate
from memsched.check.error import CheckError
from memsched.check.order import check_order
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Status
from memsched.series_parallel.recognize import Decomposition, recognize
from memsched.series_parallel.shared import is_exact, solve_series_parallel
from tests.oracle import brute_force_peak, random_graph

KINDS = ("in_tree", "out_tree", "two_terminal", "vertex_series_parallel")
COUNT = 60_000


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, int]:
    """`count` graphs without and `count` with shared buffers; how often an order, bound or certificate was wrong."""
    rng = random.Random(seed)
    figures = dict.fromkeys(("instances", "wrong", "exact", "shared", "shared_proved", "shared_optimal"), 0)
    for done in range(count):
        for shared in (False, True):
            graph = random_graph(rng, rng.choice(KINDS), rng.randint(4, 12), shared)
            figures["instances"] += 1
            _count(graph, shared, figures)
        progress(done + 1)
    return figures


def _count(graph: Graph, shared: bool, figures: dict[str, int]) -> None:
    schedule, found = solve_series_parallel(graph), recognize(graph)
    optimum = brute_force_peak(graph)
    try:
        assert schedule is not None and isinstance(found, Decomposition), "refused"
        check_order(graph, schedule.order)
        assert peak_bytes(graph, schedule.order) == schedule.peak, "wrong peak"
        assert schedule.lower_bound <= optimum <= schedule.peak, "wrong bound"
        assert check_certificate(graph, schedule.certificate, schedule.lower_bound), "not proved"
        exact = is_exact(graph, found.tree)
        assert exact or shared, "a buffer with one consumer counts as shared"
        assert schedule.status is Status.OPTIMAL or not exact, "not optimal although exact"
    except (AssertionError, CheckError):
        figures["wrong"] += 1
        return
    figures["exact"] += exact
    figures["shared"] += not exact
    figures["shared_proved"] += not exact and schedule.status is Status.OPTIMAL
    figures["shared_optimal"] += not exact and schedule.peak == optimum

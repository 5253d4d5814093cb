"""Parallel campaign: worst cases of random graphs of up to 9 ops against every execution, at 1, 2, 3 and any at once.

Counted as wrong: something found above the truth, a bound below it, a statement that the checker refuses, and edges
under which an execution exceeds their limit.
"""

from __future__ import annotations

from collections.abc import Callable

from memsched.check.error import CheckError
from memsched.check.execution import check_worst_case
from memsched.core.graph import Graph
from memsched.search.parallel.limit import limiting_edges
from memsched.search.parallel.worst import worst_case
from memsched.search.solver import solve
from tests.oracle import most_bytes_of_executions, random_graphs

COUNT = 2_000
LIMITS = (1, 2, 3, None)


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, int]:
    """`count` graphs at every limit; how many answers are wrong, closed, and proved without a search."""
    figures = {"instances": 0, "wrong": 0, "closed": 0, "proved": 0, "edges": 0}
    for done, graph in enumerate(random_graphs(count, seed, largest=9)):
        for parallel in LIMITS:
            truth = most_bytes_of_executions(graph, parallel)
            worst = worst_case(graph, parallel)
            figures["instances"] += 1
            figures["closed"] += worst.held == worst.bound
            try:
                figures["proved"] += check_worst_case(graph, worst) and worst.held == worst.bound
            except CheckError:
                figures["wrong"] += 1
            figures["wrong"] += not worst.held <= truth <= worst.bound
            edges, kept = _edges_keep(graph, parallel, truth)
            figures["edges"] += edges
            figures["wrong"] += not kept
        progress(done + 1)
    return figures


def _edges_keep(graph: Graph, parallel: int | None, truth: int) -> tuple[int, bool]:
    """(edges, whether they keep every execution) of a limit half way between the best order and the worst case."""
    schedule = solve(graph)
    limit = (schedule.peak + max(truth, schedule.peak)) // 2
    limited = limiting_edges(graph, schedule.order, limit, parallel)
    return len(limited.edges), most_bytes_of_executions(graph.with_order_edges(limited.edges), parallel) <= limit

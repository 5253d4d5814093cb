"""Edges that keep every parallel execution under a limit: they do, they follow the order, and none can be spared."""

from __future__ import annotations

import pytest

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.sizes import InputError
from memsched.search.parallel.limit import critical_path_bytes, limiting_edges
from memsched.search.parallel.worst import relaxed_worst_case
from memsched.search.solver import solve
from tests.oracle import most_bytes_of_executions, random_graphs
from tests.search.parallel.test_worst import fork


@pytest.mark.parametrize("parallel", [2, 3, None])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_no_execution_exceeds_the_limit(parallel: int | None, share: float) -> None:
    """Between the order's own peak (share 0) and the worst case (share 1), against every execution."""
    restricted = 0
    for graph in random_graphs(40, seed=21, largest=8):
        order = solve(graph).order
        low, high = peak_bytes(graph, order), most_bytes_of_executions(graph, parallel)
        limit = int(low + share * (high - low))
        limited = limiting_edges(graph, order, limit, parallel)
        kept = graph.with_order_edges(limited.edges)  # raises on a cycle
        assert most_bytes_of_executions(kept, parallel) <= limited.worst.bound <= limit
        position = {op: at for at, op in enumerate(order)}
        assert all(position[before] < position[after] for before, after in limited.edges)
        assert limited.critical_path >= limited.critical_path_before == critical_path_bytes(graph)
        restricted += bool(limited.edges)
    assert restricted > 10


def test_no_edge_can_be_spared() -> None:
    """Each edge that is left is needed by the bound of minimum cuts, which decides without a search."""
    needed = 0
    for graph in random_graphs(30, seed=22, largest=10):
        schedule = solve(graph)
        limited = limiting_edges(graph, schedule.order, schedule.peak, None, seconds=0)
        for edge in limited.edges:
            fewer = [other for other in limited.edges if other != edge]
            assert relaxed_worst_case(graph.with_order_edges(fewer), None).bound > schedule.peak
            needed += 1
    assert needed > 20


def test_a_limit_that_always_holds_needs_no_edge() -> None:
    assert limiting_edges(fork(), (0, 1, 2, 3), 14, None).edges == ()
    assert len(limiting_edges(fork(), (0, 2, 1, 3), 13, None).edges) == 1


def test_a_limit_below_the_order_is_refused() -> None:
    graph: Graph = fork()
    with pytest.raises(InputError, match="one op at a time"):
        limiting_edges(graph, solve(graph).order, 9, None)

"""Exact search: equal to brute force when it says complete, never worse than the incumbent when it does not."""

from __future__ import annotations

import random

import pytest

from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.search.budget import Budget
from memsched.search.cuts import closure
from memsched.search.cuts.closure import ClosureNetwork, minimum_closure
from memsched.search.exact.problem import Problem, bits
from memsched.search.exact.valley import exact_search
from tests.oracle import brute_force_peak, random_graphs

AMPLE = 10**7


def two_branches() -> Graph:
    """Two branches; running the left one first frees the large tensor before the other climbs.

        ┌─ L 8 ─> l ── 1 ─┐
    a ──┤                 ├─> z        l first: 8 + 6 + 1 = 15, then 6 + 1 + 4
        └─ R 6 ─> r ── 4 ─┘            r first: 8 + 6 + 4 = 18
    """
    return Graph(
        "two branches",
        tuple(map(Op, "alrz")),
        (
            Buffer("L", 8, 0, (1,)),
            Buffer("R", 6, 0, (2,)),
            Buffer("x", 1, 1, (3,)),
            Buffer("y", 4, 2, (3,)),
        ),
    )


def test_takes_the_branch_that_frees_more_first() -> None:
    result = exact_search(two_branches(), upper_bound=1000, budget=Budget(AMPLE))
    assert result.complete
    assert result.order == (0, 1, 2, 3)
    assert result.lower_bound == 15 == brute_force_peak(two_branches())


def test_says_that_an_incumbent_cannot_be_beaten() -> None:
    result = exact_search(two_branches(), upper_bound=15, budget=Budget(AMPLE), incumbent=(0, 1, 2, 3))
    assert result.complete
    assert result.lower_bound == 15
    assert result.order == (0, 1, 2, 3)


def test_agrees_with_brute_force() -> None:
    for graph in random_graphs(500, seed=11):
        optimum = brute_force_peak(graph)
        result = exact_search(graph, upper_bound=2**62, budget=Budget(AMPLE))
        assert result.complete
        assert result.order is not None
        check_order(graph, result.order)
        assert result.lower_bound == peak_bytes(graph, result.order) == optimum


def test_any_budget_gives_a_valid_bound_and_no_worse_an_order() -> None:
    """Where the budget ends is arbitrary, so every budget from nothing to enough is tried."""
    for graph in random_graphs(60, seed=12):
        optimum = brute_force_peak(graph)
        incumbent = graph.topological_order
        peak = peak_bytes(graph, incumbent)
        for units in range(0, 60, 3):
            result = exact_search(graph, upper_bound=peak, budget=Budget(units), incumbent=incumbent)
            assert result.order is not None
            check_order(graph, result.order)
            assert result.lower_bound <= optimum <= peak_bytes(graph, result.order) <= peak


def test_without_incumbent_an_ended_budget_gives_no_order() -> None:
    result = exact_search(two_branches(), upper_bound=1000, budget=Budget(1))
    assert not result.complete
    assert result.order is None
    assert result.lower_bound <= 15


def test_a_chain_of_ten_thousand_ops_does_not_recurse() -> None:
    num_ops = 10_000
    buffers = tuple(Buffer(f"b{at}", 1 + at % 7, at, (at + 1,)) for at in range(num_ops - 1))
    graph = Graph("chain", tuple(Op(f"op{at}") for at in range(num_ops)), buffers)
    result = exact_search(graph, upper_bound=2**62, budget=Budget(AMPLE))
    assert result.complete
    assert result.order == tuple(range(num_ops))


def test_memory_is_submodular_and_cut_is_lowest() -> None:
    """The commit lemma needs the first; the second is what `lowest_down_set` promises, smallest and largest."""
    for graph in random_graphs(100, seed=13, largest=8):
        problem = Problem.from_graph(graph)
        down_sets = [
            done
            for done in range(problem.full + 1)
            if all(not problem.predecessors[node] & ~done for node in bits(done))
        ]
        memory = {done: problem.memory(done) for done in down_sets}
        for one in down_sets:
            for other in down_sets:
                assert memory[one | other] + memory[one & other] <= memory[one] + memory[other]
        least = min(memory.values())
        lowest = [done for done in down_sets if memory[done] == least]
        assert problem.lowest_down_set(0, problem.full) == min(lowest, key=int.bit_count)
        assert problem.lowest_down_set(0, problem.full, largest=True) == max(lowest, key=int.bit_count)


@pytest.mark.parametrize("with_ortools", [True, False])
def test_least_closure_is_least(with_ortools: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all subsets, with OR-Tools and with the fallback that is used where it is not installed."""
    if not with_ortools:
        monkeypatch.setattr(closure, "_ortools_max_flow", lambda: None)
    rng = random.Random(14)
    for _ in range(300):
        num_nodes = rng.randint(1, 7)
        weights = [rng.randint(-9, 9) << rng.choice([0, 50]) for _ in range(num_nodes)]
        requires = [(a, b) for a in range(num_nodes) for b in range(num_nodes) if a != b and rng.random() < 0.2]
        closed = [
            members
            for members in range(1 << num_nodes)
            if all(not members >> a & 1 or members >> b & 1 for a, b in requires)
        ]

        def weight(members: int, weights: list[int] = weights) -> int:
            return sum(weights[node] for node in bits(members))

        least = min(map(weight, closed))
        candidates = [members for members in closed if weight(members) == least]
        assert minimum_closure(weights, requires) == tuple(bits(min(candidates, key=int.bit_count)))
        assert minimum_closure(weights, requires, largest=True) == tuple(bits(max(candidates, key=int.bit_count)))
        inside, outside = rng.randrange(num_nodes), rng.randrange(num_nodes)
        allowed = [members for members in closed if members >> inside & 1 and not members >> outside & 1]
        network = ClosureNetwork(weights, requires)
        if allowed:
            found, nodes = network.least([inside], [outside])
            assert found == min(map(weight, allowed)) == sum(weights[node] for node in nodes)
        assert network.least([], [])[0] == least  # what was forced is forgotten

"""Kernels keep the optimum; symmetry and probing claim only what holds for some best order."""

from __future__ import annotations

import random

from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.search.budget import Budget
from memsched.search.exact.problem import Problem
from memsched.search.exact.reduce import kernelize, reduce_series_parallel
from memsched.search.exact.symmetry import break_symmetries, colors, swap_automorphism
from memsched.search.exact.valley import exact_search
from memsched.search.refute.probing import probe_bound, probe_level
from tests.campaign.exact import bound_of, branched_graph, faults_of
from tests.oracle import brute_force_peak, random_graph, random_graphs

AMPLE = 10**7


def solved(problem: Problem) -> tuple[int, tuple[int, ...]]:
    """The optimum and an order of the original ops."""
    result = exact_search(problem, upper_bound=2**62, budget=Budget(AMPLE))
    assert result.complete
    assert result.order is not None
    return result.lower_bound, problem.lift(result.order)


def test_a_series_parallel_graph_without_sharing_becomes_one_chain() -> None:
    """A chain of segments in Johnson's order has one topological order: the polynomial algorithm's."""
    rng = random.Random(21)
    for _ in range(100):
        graph = random_graph(rng, rng.choice(["vertex_series_parallel", "out_tree", "in_tree"]), 12, shared=False)
        kernel = reduce_series_parallel(Problem.from_graph(graph))
        if not kernel.shared:
            assert all(mask.bit_count() <= 1 for mask in kernel.predecessors)
            assert sum(not mask for mask in kernel.predecessors) == 1
            order = kernel.lift(kernel.topological_order)
            check_order(graph, order)
            assert peak_bytes(graph, order) == brute_force_peak(graph)


def test_kernels_keep_the_optimum() -> None:
    for graph in random_graphs(300, seed=22):
        optimum = brute_force_peak(graph)
        bound, order = solved(kernelize(graph, Budget(AMPLE)).problem)
        check_order(graph, order)
        assert bound == peak_bytes(graph, order) == optimum


def test_without_budget_a_kernel_is_only_larger() -> None:
    for graph in random_graphs(100, seed=23):
        bound, order = solved(kernelize(graph, Budget(0)).problem)
        check_order(graph, order)
        assert bound == peak_bytes(graph, order) == brute_force_peak(graph)


def test_every_claim_of_exact_search_on_a_sample() -> None:
    """The campaign's check (search, kernel, symmetry, probing, anytime) on a few hundred graphs."""
    rng = random.Random(24)
    for index, graph in enumerate(random_graphs(150, seed=25, largest=10)):
        graph = branched_graph(rng) if index % 2 else graph
        assert faults_of(graph, brute_force_peak(graph), rng) == []


def three_experts() -> Graph:
    """Three like branches between a fork and a join; each result waits for the join.

        ┌─ 4 ─> x1 ─ 9 ─> y1 ─ 3 ─┐
    a ──┼─ 4 ─> x2 ─ 9 ─> y2 ─ 3 ─┼─> z
        └─ 4 ─> x3 ─ 9 ─> y3 ─ 3 ─┘
    """
    ops = tuple(map(Op, ("a", "x1", "y1", "x2", "y2", "x3", "y3", "z")))
    buffers = []
    for x, y in ((1, 2), (3, 4), (5, 6)):
        buffers += [
            Buffer(f"in{x}", 4, 0, (x,)),
            Buffer(f"mid{x}", 9, x, (y,)),
            Buffer(f"out{x}", 3, y, (7,)),
        ]
    return Graph("three experts", ops, tuple(buffers))


def test_interchangeable_branches_are_ordered_once() -> None:
    problem = Problem.from_graph(three_experts())
    color = colors(problem)
    assert color[1] == color[3] == color[5] != color[2]
    assert swap_automorphism(problem, color, 1, 3) == {1: 3, 3: 1, 2: 4, 4: 2}
    broken = break_symmetries(problem, Budget(AMPLE))
    assert sum(mask.bit_count() for mask in broken.ancestors) > sum(mask.bit_count() for mask in problem.ancestors)
    bound, order = solved(broken)
    check_order(three_experts(), order)
    assert bound == brute_force_peak(three_experts())


def test_unlike_branches_are_not_swapped() -> None:
    """One branch has a workspace: nothing maps it to the others."""
    graph = three_experts()
    ops = [*graph.ops]
    ops[3] = Op("x2", workspace=1)
    problem = Problem.from_graph(Graph("unlike", tuple(ops), graph.buffers))
    assert swap_automorphism(problem, [0] * len(problem), 1, 3) is None
    assert swap_automorphism(problem, colors(problem), 1, 5) is not None


def test_probing_decides_a_pair_that_no_cut_decides() -> None:
    """Each op alone fits below 18 bytes, but whichever runs first meets the other's input.

    a makes X (8) for p and Y (8) for q; p and q each write 2 kept bytes: 16 + 2 = 18 at the first of them.
    The cut of p assumes that q has run (8 + 2 + 2), and the cut of q that p has.
    """
    graph = Graph(
        "pair",
        tuple(map(Op, "apq")),
        (
            Buffer("X", 8, 0, (1,)),
            Buffer("Y", 8, 0, (2,)),
            Buffer("P", 2, 1, (), True),
            Buffer("Q", 2, 2, (), True),
        ),
    )
    problem = Problem.from_graph(graph)
    cuts = [
        problem.memory(
            problem.lowest_down_set(problem.ancestors[op], problem.full & ~problem.descendants[op] & ~(1 << op))
        )
        + problem.humps[op]
        for op in range(3)
    ]
    assert max(cuts) == 16
    assert probe_level(problem, 17, Budget(AMPLE), range(3)).problem is None
    assert bound_of(problem, 16, 100) == 18 == brute_force_peak(graph)


def test_a_probe_that_runs_out_of_budget_proves_nothing_new() -> None:
    rng = random.Random(26)
    for graph in random_graphs(60, seed=27):
        optimum = brute_force_peak(graph)
        problem = Problem.from_graph(graph)
        bound = probe_bound(problem, lower_bound=0, upper_bound=optimum + 5, budget=Budget(rng.randint(0, 40)))
        assert bound <= optimum

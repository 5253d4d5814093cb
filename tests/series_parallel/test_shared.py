"""Buffers that several ops may be the last to read: bound, fixpoint, and why no polynomial algorithm is claimed."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest

from memsched.check.certificate import check_certificate
from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.core.result import Status, TreeCertificate
from memsched.search.budget import Budget
from memsched.series_parallel.order import designated_freers, maximal_consumers, modular_problem, order_series_parallel
from memsched.series_parallel.recognize import Decomposition, recognize
from memsched.series_parallel.shared import is_exact, shared_buffers, solve_series_parallel
from memsched.series_parallel.tree import Tree, to_json
from tests.oracle import brute_force_peak, random_graph

KINDS = ("in_tree", "out_tree", "two_terminal", "vertex_series_parallel")


def decomposed(graph: Graph) -> Tree:
    found = recognize(graph)
    assert isinstance(found, Decomposition)
    return found.tree


def shared_graphs(count: int, seed: int, largest: int = 11) -> list[Graph]:
    """Random series-parallel graphs, each with at least one buffer that several ops may free."""
    rng = random.Random(seed)
    graphs: list[Graph] = []
    while len(graphs) < count:
        graph = random_graph(rng, rng.choice(KINDS), rng.randint(4, largest), shared=True)
        if not is_exact(graph, decomposed(graph)):
            graphs.append(graph)
    return graphs


def test_bound_optimum_peak_in_this_sequence() -> None:
    """And OPTIMAL only where all three meet."""
    proved = 0
    for graph in shared_graphs(400, seed=41):
        schedule = solve_series_parallel(graph)
        assert schedule is not None
        check_order(graph, schedule.order)
        assert peak_bytes(graph, schedule.order) == schedule.peak
        assert schedule.lower_bound <= brute_force_peak(graph) <= schedule.peak
        assert check_certificate(graph, schedule.certificate, schedule.lower_bound)
        assert schedule.peak <= peak_bytes(graph, graph.topological_order)
        proved += schedule.status is Status.OPTIMAL
    assert proved > 250


def test_every_designation_is_a_lower_bound() -> None:
    """Any consumers in any number, maximal or not, chosen at random: never above the optimum."""
    rng = random.Random(42)
    for graph in shared_graphs(150, seed=42, largest=9):
        tree = decomposed(graph)
        optimum = brute_force_peak(graph)
        for _ in range(6):
            freed_by = [
                (index, op)
                for index, buffer in enumerate(graph.buffers)
                if buffer.consumers
                for op in sorted(rng.sample(buffer.consumers, rng.randint(1, len(buffer.consumers))))
            ]
            _, bound = order_series_parallel(graph, tree, freed_by)
            assert bound <= optimum
            assert check_certificate(graph, TreeCertificate(bound, to_json(tree), tuple(freed_by)), bound)


def test_relaxed_memory_is_below_the_true_one_at_every_point() -> None:
    """The lemma behind the bound, on random topological orders and random designations."""
    rng = random.Random(43)
    for graph in shared_graphs(100, seed=43):
        tree = decomposed(graph)
        consumers = maximal_consumers(graph, tree)
        freers = [tuple(rng.sample(ops, rng.randint(1, len(ops)))) if ops else () for ops in consumers]
        problem = modular_problem(graph, freers)
        order = random_order(graph, rng)
        level = problem.start
        for at, op in enumerate(order):
            level += problem.humps[op] - problem.drops[op]
            assert level <= live_after(graph, order[: at + 1])


def random_order(graph: Graph, rng: random.Random) -> list[int]:
    order: list[int] = []
    while len(order) < len(graph):
        ready = [op for op in range(len(graph)) if op not in order and set(graph.predecessors[op]) <= set(order)]
        order.append(rng.choice(ready))
    return order


def live_after(graph: Graph, done: list[int]) -> int:
    """Live bytes after the ops `done`, by definition."""
    total = 0
    for buffer in graph.buffers:
        born = buffer.producer is None or buffer.producer in done
        dead = not buffer.kept and all(op in done for op in buffer.consumers)
        total += buffer.size if born and not dead else 0
    return total


def test_exactness_looks_at_maximal_consumers_only() -> None:
    """x ──> f ──> add and x ──> add: one maximal consumer.  Without f ──> add there are two.

    x ─┬─> f ─> add
       └────────^
    """
    ops = tuple(map(Op, ("x", "f", "add")))
    shortcut = (Buffer("x", 4, 0, (1, 2)), Buffer("f", 1, 1, (2,)))
    assert is_exact(Graph("residual", ops, shortcut), decomposed(Graph("residual", ops, shortcut)))
    fork = Graph("fork", ops, shortcut[:1])
    assert not is_exact(fork, decomposed(fork))
    kept = Graph("kept", ops, (Buffer("x", 4, 0, (1, 2), True),))
    assert is_exact(kept, decomposed(kept))


def test_equal_shares_lose_no_byte() -> None:
    """7 bytes for three readers: 3, 2, 2."""
    graph = Graph("fork", tuple(map(Op, "abcd")), (Buffer("X", 7, 0, (1, 2, 3)),))
    tree = decomposed(graph)
    freers = designated_freers(graph, tree, ((0, 1), (0, 2), (0, 3)))
    assert modular_problem(graph, freers).drops == (0, 3, 2, 2)


def test_a_fixpoint_proves_an_order_optimal() -> None:
    """dy (8 bytes) is read by dW, which writes 9 kept bytes, and by dX, which needs 10 bytes of workspace and keeps 1.

    Freed by dW, dy makes dX run first even in the relaxed problem (19 against 20 bytes), and then dW really is last.
    """
    ops = (Op("dy"), Op("dW"), Op("dX", workspace=10))
    buffers = (Buffer("dy", 8, 0, (1, 2)), Buffer("dW", 9, 1, (), True), Buffer("dX", 1, 2, (), True))
    graph = Graph("backward", ops, buffers)
    assert shared_buffers(maximal_consumers(graph, decomposed(graph))) == [0]
    assert order_series_parallel(graph, decomposed(graph), ((0, 1),)) == ((0, 2, 1), 19)
    schedule = solve_series_parallel(graph)
    assert schedule is not None
    assert schedule.order == (0, 2, 1)
    assert schedule.status is Status.OPTIMAL
    assert schedule.peak == brute_force_peak(graph) == 19


def test_same_graph_same_schedule_and_a_budget_ends_it() -> None:
    for graph in shared_graphs(20, seed=44):
        first, second = solve_series_parallel(graph), solve_series_parallel(graph)
        assert first is not None and second is not None
        assert (first.order, first.lower_bound, first.certificate) == (
            second.order,
            second.lower_bound,
            second.certificate,
        )
        spent = Budget(units=0)
        poor = solve_series_parallel(graph, spent)
        assert poor is not None
        assert poor.lower_bound <= first.lower_bound
        assert first.peak <= poor.peak <= peak_bytes(graph, graph.topological_order)


@dataclass(frozen=True)
class Knapsack:
    """Is there a set of items of profit >= `target` whose sizes, without the largest, add up to at most `capacity`?"""

    sizes: tuple[int, ...]
    profits: tuple[int, ...]
    capacity: int
    target: int

    def has_solution(self) -> bool:
        items = range(len(self.sizes))
        for count in range(len(self.sizes) + 1):
            for chosen in itertools.combinations(items, count):
                sizes = [self.sizes[item] for item in chosen]
                if (
                    sum(self.profits[item] for item in chosen) >= self.target
                    and sum(sizes) - max(sizes, default=0) <= self.capacity
                ):
                    return True
        return False


def knapsack_gadget(knapsack: Knapsack) -> tuple[Graph, int]:
    """An out-tree and a limit: some order peaks at or below the limit exactly if the knapsack has a solution.

                ┌─> c1 ──A1──> d1 ──p1──> e1        s     root output, read by every c
        root ─s─┼─> c2 ──A2──> d2 ──p2──> e2        A_i   p_i + profit_i
                └─> c0 ──a0──> e0                   d_i   contributes h, e_i contributes E, by workspace

    While s is live no e fits below the limit, and d_i fits only if the residues of the other branches are at most the
    capacity: running d_i early, which turns A_i into p_i, is packing item i.  s dies when the last c has run, which
    needs the packed profit to reach the target.
    """
    sizes, outputs = knapsack.sizes, [p + v for p, v in zip(knapsack.sizes, knapsack.profits, strict=True)]
    h = max(*(a + p for a, p in zip(outputs, sizes, strict=True)), sum(outputs) - knapsack.target + 1)
    a0 = knapsack.target - sum(outputs) + knapsack.capacity + h
    s = sum(sizes) + a0 + h + 1
    limit = s + knapsack.capacity + h
    last = limit - sum(sizes) - a0
    ops, buffers, heads = [Op("root")], [], []
    for item, (p, a) in enumerate(zip(sizes, outputs, strict=True)):
        c = len(ops)
        heads.append(c)
        ops += [Op(f"c{item + 1}"), Op(f"d{item + 1}", workspace=h - a - p), Op(f"e{item + 1}", workspace=last - p)]
        buffers += [Buffer(f"A{item + 1}", a, c, (c + 1,)), Buffer(f"p{item + 1}", p, c + 1, (c + 2,))]
    c = len(ops)
    ops += [Op("c0"), Op("e0", workspace=last - a0)]
    buffers += [Buffer("a0", a0, c, (c + 1,)), Buffer("s", s, 0, (*heads, c))]
    return Graph("knapsack", tuple(ops), tuple(buffers)), limit


@pytest.mark.parametrize("num_items", [2, 3])
def test_sharing_is_weakly_np_hard_on_out_trees(num_items: int) -> None:
    """Knapsack in the form of an out-tree with one shared buffer, against brute force on both sides."""
    rng = random.Random(num_items)
    answers = []
    for _ in range(40):
        sizes = tuple(rng.randint(1, 9) for _ in range(num_items))
        profits = tuple(rng.randint(1, 9) for _ in range(num_items))
        # targets near the top, where the capacity decides
        target = max(1, sum(profits) - rng.randint(0, 6))
        knapsack = Knapsack(sizes, profits, rng.randint(0, sum(sizes) // 2), target)
        graph, limit = knapsack_gadget(knapsack)
        optimum = brute_force_peak(graph)
        assert (optimum <= limit) == knapsack.has_solution()
        answers.append(knapsack.has_solution())
        schedule = solve_series_parallel(graph)
        assert schedule is not None
        assert schedule.lower_bound <= optimum <= schedule.peak
        assert not is_exact(graph, decomposed(graph))
    assert 5 < sum(answers) < 35

"""Fusing groups in a planned order: the incremental numbers are those of a graph that is contracted from scratch."""

from __future__ import annotations

import random

import pytest

from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.fusion.groups import FusionCycle, Groups
from memsched.fusion.planner import FusionPlanner
from tests.oracle import random_graphs


def contracted(graph: Graph, groups: list[list[int]]) -> Graph:
    """The graph whose ops are `groups`, built the slow and obvious way."""
    group_of = {op: index for index, members in enumerate(groups) for op in members}
    buffers = []
    for buffer in graph.buffers:
        producer = None if buffer.producer is None else group_of[buffer.producer]
        readers = {group_of[op] for op in buffer.consumers}
        if producer is not None and readers == {producer} and not buffer.kept:
            continue
        readers.discard(-1 if producer is None else producer)
        buffers.append(Buffer(buffer.name, buffer.size, producer, tuple(sorted(readers)), buffer.kept))
    edges = {(group_of[a], group_of[b]) for b, before in enumerate(graph.predecessors) for a in before}
    ops = tuple(Op(str(members), workspace=max(graph.ops[op].workspace for op in members)) for members in groups)
    return Graph("contracted", ops, tuple(buffers), tuple(sorted((a, b) for a, b in edges if a != b)))


def test_random_fusions_keep_the_peak_of_the_contracted_graph() -> None:
    """Whatever is fused, in whatever order, the groups stay in a legal order and their peak is the true one."""
    rng = random.Random(5)
    fused = 0
    for graph in random_graphs(400, seed=6, largest=14):
        groups = Groups(graph, graph.topological_order)
        for _ in range(8):
            names = groups.order()
            if len(names) < 2:
                break
            first, second = rng.sample(names, 2)
            try:
                placements = groups.placements(first, second)
            except FusionCycle:
                continue
            placement = rng.choice(placements)
            groups.fuse(placement)
            fused += 1
            members = [groups.members[group] for group in groups.order()]
            reference = contracted(graph, members)
            check_order(reference, range(len(members)))
            assert groups.peak() == peak_bytes(reference, range(len(members)))
    assert fused > 1000


def test_a_reduction_that_would_wait_is_not_fused() -> None:
    """The mechanism of pytorch#193193, in one drawing.

    big ──100──> sum ──1──> add ──1──>        `add` also waits for the end of a chain of 50s:
    p ──50──> q ──50──> r ──1──> add          fused with `add`, `sum` would keep 100 bytes alive through the chain
    """
    ops = tuple(map(Op, ("big", "sum", "p", "q", "r", "add")))
    buffers = (
        Buffer("x", 100, 0, (1,)),
        Buffer("s", 1, 1, (5,)),
        Buffer("p", 50, 2, (3,)),
        Buffer("q", 50, 3, (4,)),
        Buffer("r", 1, 4, (5,)),
        Buffer("out", 1, 5, (), True),
    )
    graph = Graph("waiting", ops, buffers)
    planner = FusionPlanner(graph, range(6))
    assert planner.budget == 101
    assert not planner.may_fuse([1], [5])
    (refusal,) = planner.refusals.values()
    assert refusal.price == 200 - 101, "x and both 50s would be alive at q"
    assert planner.may_fuse([2], [3]), "p and q fuse for nothing"


def test_a_fusion_that_the_planner_never_saw_is_caught_up_with() -> None:
    """Inductor fuses some pairs without asking (templates, foreach); the next question brings them along."""
    ops = tuple(map(Op, "abcd"))
    buffers = (Buffer("x", 4, 0, (1,)), Buffer("y", 4, 1, (2,)), Buffer("z", 4, 2, (3,)), Buffer("o", 4, 3, (), True))
    planner = FusionPlanner(Graph("chain", ops, buffers), range(4))
    assert planner.may_fuse([0, 1], [2])
    assert planner.order() == [[0, 1], [2], [3]]
    planner.fuse([0, 1, 2, 3])
    assert planner.order() == [[0, 1, 2, 3]]


def test_fusing_around_a_third_group_is_a_cycle() -> None:
    ops = tuple(map(Op, "abc"))
    buffers = (Buffer("x", 1, 0, (1, 2)), Buffer("y", 1, 1, (2,)))
    groups = Groups(Graph("triangle", ops, buffers), range(3))
    with pytest.raises(FusionCycle):
        groups.placements(0, 2)


def test_beyond_its_work_limit_the_planner_accepts_what_stock_would() -> None:
    ops = tuple(map(Op, ("a", "b")))
    graph = Graph("two", ops, (Buffer("x", 5, 0), Buffer("y", 5, 1)))
    assert not FusionPlanner(graph, range(2)).may_fuse([0], [1])
    assert FusionPlanner(graph, range(2), work_limit=0).may_fuse([0], [1])


def update_and_parts(parts: int = 6) -> tuple[Graph, list[int]]:
    """An update of four kernels that needs 40 at once, then parts of a table, which are planned as they come.

    t0 ──10──> t1 ──10──> t2 ──10──> t3 ──10──> p0 p1 ... p5 ──4──> w0 w1 ... w5
    └──────────┴──────────┴── t3 reads them all     the parts: 24 at once in this order, 4 in the best
    """
    names = [*(f"t{at}" for at in range(4)), *(f"p{at}" for at in range(parts)), *(f"w{at}" for at in range(parts))]
    buffers = [Buffer(f"t{at}", 10, at, tuple(range(at + 1, 4))) for at in range(3)]
    buffers += [Buffer("updated", 10, 3, tuple(range(4, 4 + parts)), True)]
    buffers += [Buffer(f"p{at}", 4, 4 + at, (4 + parts + at,)) for at in range(parts)]
    return Graph("step", tuple(map(Op, names)), tuple(buffers)), list(range(len(names)))


@pytest.mark.parametrize("falls", [False, True])
def test_the_budget_falls_with_the_peak_and_what_binds_then_is_ordered(falls: bool) -> None:
    """Once the update is one kernel, parts bind: in a better order two of them are one too many."""
    graph, order = update_and_parts()
    planner = FusionPlanner(graph, order, falls=falls)
    assert planner.budget == 40
    planner.fuse([0, 1, 2, 3])
    assert planner.groups.peak() == 34, "the update's result, and all parts"
    assert planner.may_fuse([4], [5]) is not falls
    assert (planner.groups.peak(), planner.budget) == ((14, 14) if falls else (34, 40))
    check_order(graph, [op for group in planner.order() for op in group])


def test_a_budget_of_the_user_s_does_not_fall() -> None:
    graph, order = update_and_parts()
    planner = FusionPlanner(graph, order, budget=50)
    planner.fuse([0, 1, 2, 3])
    assert planner.may_fuse([4], [5]) and planner.budget == 50


def test_beyond_the_work_limit_near_groups_are_judged_for_a_while() -> None:
    """Four wide tensors that are read one after the other; the first two ops are near, the others 100 ops away."""
    far = 100
    ops = tuple(Op(f"op{at}") for at in range(far + 2))
    buffers = tuple(Buffer(f"x{at}", 5, at) for at in (0, 1, far, far + 1))
    graph = Graph("two", ops, buffers)

    def planner(visited: int) -> FusionPlanner:
        made = FusionPlanner(graph, range(far + 2), work_limit=1000)
        made.groups.visited = visited
        return made

    assert not planner(0).may_fuse([0], [far]) and not planner(0).may_fuse([0], [1])
    assert planner(1001).may_fuse([0], [far]) and not planner(1001).may_fuse([0], [1])
    assert planner(4001).may_fuse([0], [1])

"""The core: what a graph is, what its peak is, and what the checkers refuse."""

from __future__ import annotations

import itertools

import pytest

from memsched.check.error import CheckError
from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, GraphError, Op
from memsched.core.peak import live_buffers, memory_profile, peak_bytes
from tests.oracle import brute_force_peak, random_graphs


def diamond() -> Graph:
    """a ──X4──> b ──Y1──> d, and X also feeds c ──Z2──> d; d writes one kept byte."""
    ops = tuple(map(Op, "abcd"))
    buffers = (
        Buffer("X", 4, 0, (1, 2)),
        Buffer("Y", 1, 1, (3,)),
        Buffer("Z", 2, 2, (3,)),
        Buffer("out", 1, 3, (), True),
    )
    return Graph("diamond", ops, buffers)


def test_profile_of_the_diamond_is_the_one_drawn_in_peak_py() -> None:
    profile = memory_profile(diamond(), [0, 1, 2, 3])
    assert profile.step_peaks == (4, 5, 7, 4)
    assert profile.levels == (4, 5, 3, 1)
    assert profile.peak == 7
    assert profile.peak_step == 2
    assert [diamond().buffers[b].name for b in live_buffers(diamond(), [0, 1, 2, 3], 2)] == ["X", "Y", "Z"]


def test_live_buffers_add_up_to_the_step_peak() -> None:
    """Two definitions of the same thing: by replay, and by the interval of each buffer."""
    for graph in random_graphs(200, seed=3):
        profile = memory_profile(graph, graph.topological_order)
        for step, op in enumerate(graph.topological_order):
            live = sum(graph.buffers[b].size for b in live_buffers(graph, graph.topological_order, step))
            assert live + graph.ops[op].workspace == profile.step_peaks[step]


def test_brute_force_is_the_least_peak_of_all_permutations() -> None:
    """The oracle itself, held to the definition on graphs small enough to try every order."""
    for graph in random_graphs(60, seed=4, largest=6):
        peaks = []
        for order in itertools.permutations(range(len(graph))):
            try:
                check_order(graph, order)
            except CheckError:
                continue
            peaks.append(peak_bytes(graph, order))
        assert brute_force_peak(graph) == min(peaks)


@pytest.mark.parametrize(
    ("order", "fault"),
    [
        ([0, 1, 2], "'d' is missing"),
        ([0, 1, 1, 3], "'b' occurs twice"),
        ([0, 1, 2, 9], "not an op"),
        ([1, 0, 2, 3], "'b' runs before 'a'"),
    ],
)
def test_check_order_names_the_offender(order: list[int], fault: str) -> None:
    with pytest.raises(CheckError, match=fault):
        check_order(diamond(), order)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: Graph("g", ()), "no op"),
        (lambda: Graph("g", (Op("a"), Op("a"))), "'a' occurs twice"),
        (lambda: Graph("g", (Op("a"),), (Buffer("x", -1, 0),)), "size -1"),
        (lambda: Graph("g", (Op("a"),), (Buffer("x", 2**62 + 1, 0),)), "size"),
        (lambda: Graph("g", (Op("a"),), (Buffer("x", 2**61, 0), Buffer("y", 2**61 + 1, 0))), "add up"),
        (lambda: Graph("g", (Op("a"),), (Buffer("x", 1, 3),)), "not an op"),
        (lambda: Graph("g", (Op("a"),), (Buffer("x", 1, None),)), "neither a producer nor a consumer"),
        (lambda: Graph("g", (Op("a"),), (Buffer("x", 1, 0, (0,)),)), "reads its own output"),
        (lambda: Graph("g", (Op("a"),), (), ((0, 0),)), "before itself"),
        (lambda: Graph("g", (Op("a"), Op("b")), (), ((0, 1), (1, 0))), "cycle"),
    ],
)
def test_graph_refuses_what_is_not_a_graph(make: object, fault: str) -> None:
    with pytest.raises(GraphError, match=fault):
        make()  # type: ignore[operator]

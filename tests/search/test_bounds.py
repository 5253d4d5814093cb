"""Bounds: never above the optimum, certificates that the checker follows, few flows, and graceful ends."""

from __future__ import annotations

import random
import time

import pytest

from bench.orders.shapes import SHAPES
from memsched.check.certificate import check_certificate
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import memory_profile, peak_bytes
from memsched.core.result import CutCertificate, EndpointCertificate
from memsched.search.budget import Budget
from memsched.search.cuts import closure
from memsched.search.cuts.bounds import cut_bound, endpoint_bound
from memsched.search.cuts.cuts import CutSolver, reroute
from tests.oracle import brute_force_peak, random_graph, random_graphs, random_order


def fork() -> Graph:
    """a ──X5──> b ──Y1──> d and a ──X5──> c ──Z2──> d: c cannot run below X + Z = 7, the optimum is X + Y + Z = 8."""
    ops = tuple(map(Op, "abcd"))
    buffers = (Buffer("X", 5, 0, (1, 2)), Buffer("Y", 1, 1, (3,)), Buffer("Z", 2, 2, (3,)))
    return Graph("fork", ops, buffers)


def test_cuts_of_the_fork_are_the_ones_drawn_in_cuts_py() -> None:
    solver = CutSolver(fork())
    cuts = [solver.cut_at(op) for op in range(4)]
    assert [cut.bound for cut in cuts if cut] == [5, 6, 7, 3]
    assert cuts[2] is not None and bytes(cuts[2].done) == bytes([1, 0, 0, 0])
    assert cut_bound(fork())[0] == 7
    assert brute_force_peak(fork()) == 8


def test_cut_bound_is_never_above_the_optimum_and_its_certificate_holds() -> None:
    tight = 0
    for graph in random_graphs(600, seed=11, largest=11):
        bound, certificate = cut_bound(graph)
        optimum = brute_force_peak(graph)
        assert bound <= optimum
        assert check_certificate(graph, certificate, bound)
        tight += bound == optimum
    assert tight >= 400, "the bound is tight on three graphs of four: fewer means that flows are lost"


def test_cut_bound_is_the_largest_cut_of_all_ops() -> None:
    """The estimates that skip most flows may not skip one that matters, whatever order they start from."""
    rng = random.Random(12)
    for graph in random_graphs(200, seed=12, largest=14):
        solver = CutSolver(graph)
        cuts = [cut.bound for op in range(len(graph)) if (cut := solver.cut_at(op)) is not None]
        largest = max(endpoint_bound(graph)[0], *cuts)
        assert cut_bound(graph)[0] == largest
        order = random_order(graph, rng)
        assert cut_bound(graph, incumbent_order=order)[0] == largest


def test_rerouting_through_a_cut_brings_the_op_down_to_its_bound() -> None:
    rng = random.Random(13)
    for graph in random_graphs(200, seed=13, largest=14):
        solver = CutSolver(graph)
        order = random_order(graph, rng)
        op = rng.randrange(len(graph))
        cut = solver.cut_at(op)
        assert cut is not None
        rerouted = reroute(order, cut.done)
        profile = memory_profile(graph, [*(v for v in rerouted if cut.done[v]), op])
        assert profile.step_peaks[-1] == cut.bound


def test_stop_at_ends_early_and_still_proves_what_it_says() -> None:
    for graph in random_graphs(100, seed=14):
        full, _ = cut_bound(graph)
        bound, certificate = cut_bound(graph, stop_at=full // 2)
        assert min(full, full // 2) <= bound <= full
        assert check_certificate(graph, certificate, bound)


def test_an_empty_budget_leaves_a_valid_bound() -> None:
    for graph in random_graphs(100, seed=15):
        full, _ = cut_bound(graph)
        bound, certificate = cut_bound(graph, budget=Budget(0))
        assert endpoint_bound(graph)[0] <= bound <= full
        assert check_certificate(graph, certificate, bound)


def test_without_ortools_the_bounds_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = list(random_graphs(60, seed=16))
    expected = [cut_bound(graph)[0] for graph in graphs]
    monkeypatch.setattr(closure, "_ortools_max_flow", lambda: None)
    for graph, bound in zip(graphs, expected, strict=True):
        found, certificate = cut_bound(graph)
        assert found == bound
        assert check_certificate(graph, certificate, found)


def test_kept_buffers_and_dying_inputs_prove_the_ends() -> None:
    """Ten bytes live at the start, twelve at the end, and nothing in between: no flow is needed."""
    buffers = (Buffer("in", 10, None, (0,)), Buffer("out", 2, 0, (), True), Buffer("state", 10, None, (0,), True))
    graph = Graph("ends", (Op("a"),), buffers)
    assert endpoint_bound(graph)[0] == 20
    bound, certificate = cut_bound(graph)
    assert bound == 22
    assert isinstance(certificate, CutCertificate)
    assert isinstance(endpoint_bound(graph)[1], EndpointCertificate)


def test_huge_sizes_do_not_overflow() -> None:
    """Flows of up to 2**61 bytes: a solver in 32-bit integers would answer nonsense."""
    size = 2**58
    buffers = (Buffer("X", 5 * size, 0, (1, 2)), Buffer("Y", size, 1, (3,)), Buffer("Z", 2 * size, 2, (3,)))
    graph = Graph("huge", tuple(map(Op, "abcd")), buffers)
    bound, certificate = cut_bound(graph)
    assert bound == 7 * size
    assert check_certificate(graph, certificate, bound)


@pytest.mark.parametrize("shape", ["chain", "wide", "ragged"])
def test_bounds_of_20_000_ops_take_seconds(shape: str) -> None:
    graph = SHAPES[shape](20_000)
    started = time.process_time()
    bound, certificate = cut_bound(graph, budget=Budget(2 * 20_000))
    assert time.process_time() - started < 10
    assert check_certificate(graph, certificate, bound)
    assert bound <= peak_bytes(graph, graph.topological_order)


def test_bounds_of_graphs_beyond_brute_force_are_below_every_order_tried() -> None:
    rng = random.Random(18)
    for kind in ("in_tree", "out_tree", "two_terminal", "vertex_series_parallel", "general"):
        graph = random_graph(rng, kind, 40)
        bound, certificate = cut_bound(graph)
        assert check_certificate(graph, certificate, bound)
        assert all(bound <= peak_bytes(graph, random_order(graph, rng)) for _ in range(50))

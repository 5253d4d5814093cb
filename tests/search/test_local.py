"""Local search: never worse, deterministic, incremental bookkeeping that agrees with a full replay, and good."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench.orders.shapes import SHAPES
from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import memory_profile, peak_bytes
from memsched.files.graph_file import read_graph
from memsched.search.budget import UNITS_PER_SECOND, Budget
from memsched.search.cuts.bounds import cut_bound
from memsched.search.cuts.cuts import CutSolver, reroute
from memsched.search.local.nested import NestedCuts
from memsched.search.local.search import improve
from memsched.search.local.timeline import Timeline
from memsched.search.local.window import WindowCutter, reorder_window
from memsched.search.orders.inductor import priority_order, stock_orders
from tests.oracle import brute_force_peak, random_graph, random_graphs

INSTANCES = Path(os.environ.get("MEMSCHED_INSTANCES", "bench/instances"))


def diamond() -> Graph:
    """a ──X4──> b ──Y1──> d, and X also feeds c ──Z2──> d; d writes one kept byte."""
    buffers = (
        Buffer("X", 4, 0, (1, 2)),
        Buffer("Y", 1, 1, (3,)),
        Buffer("Z", 2, 2, (3,)),
        Buffer("out", 1, 3, (), True),
    )
    return Graph("diamond", tuple(map(Op, "abcd")), buffers)


def random_order(graph: Graph, rng: random.Random) -> tuple[int, ...]:
    return priority_order(graph, [rng.random() for _ in graph.ops])


def test_replay_of_the_diamond_is_the_one_drawn_in_local_timeline_py() -> None:
    timeline = Timeline(diamond(), [0, 1, 2, 3])
    assert timeline.step_peaks == [4, 5, 7, 4]
    assert timeline.replay(1, 3, [2, 1]) == ([6, 7], [4, 6])


def test_windows_replayed_and_replaced_agree_with_a_full_replay() -> None:
    """Twenty random legal permutations of random windows, one after the other, on each graph."""
    rng = random.Random(31)
    for graph in random_graphs(150, seed=31, largest=24):
        timeline = Timeline(graph, random_order(graph, rng))
        for _ in range(20):
            start, stop = sorted(rng.sample(range(len(graph) + 1), 2))
            rank = {op: at for at, op in enumerate(random_order(graph, rng))}
            ops = sorted(timeline.order[start:stop], key=rank.__getitem__)
            timeline.replace(start, stop, ops, timeline.replay(start, stop, ops))
            fresh = Timeline(graph, timeline.order)
            profile = memory_profile(graph, timeline.order)
            assert tuple(timeline.step_peaks) == profile.step_peaks
            assert tuple(timeline.levels) == (profile.start, *profile.levels)
            assert all(
                timeline.last_read[index] == fresh.last_read[index]
                for index, buffer in enumerate(graph.buffers)
                if buffer.size  # empty buffers are not tracked
            )
            assert timeline.position == fresh.position


def test_reordered_windows_are_optimal() -> None:
    """Against all legal permutations of windows of up to six ops; None only when no permutation is better."""
    rng = random.Random(32)
    improved = 0
    for graph in random_graphs(150, seed=32, largest=14):
        timeline = Timeline(graph, random_order(graph, rng))
        start = rng.randrange(len(graph) - 2)
        stop = min(len(graph), start + rng.randint(3, 6))
        peaks = []
        for ops in itertools.permutations(timeline.order[start:stop]):
            order = [*timeline.order[:start], *ops, *timeline.order[stop:]]
            position = {op: at for at, op in enumerate(order)}
            if all(position[before] < position[op] for op in ops for before in graph.predecessors[op]):
                peaks.append(max(memory_profile(graph, order).step_peaks[start:stop]))
        ops_found, _ = reorder_window(timeline, start, stop, max_states=10_000)
        now = max(timeline.step_peaks[start:stop])
        ends = max(timeline.levels[start], timeline.levels[stop])
        if ops_found is None:
            assert max(min(peaks), ends) >= now
        else:
            check_order(graph, [*timeline.order[:start], *ops_found, *timeline.order[stop:]])
            assert max(timeline.replay(start, stop, ops_found)[0]) <= max(min(peaks), ends) < now
            improved += 1
    assert improved >= 30, "otherwise the test shows nothing"


def test_a_cut_window_lets_its_op_run_with_the_fewest_bytes() -> None:
    """Against all down-sets of the window with which the op can start."""
    rng = random.Random(33)
    for graph in random_graphs(150, seed=33, largest=12):
        timeline = Timeline(graph, random_order(graph, rng))
        start, stop = sorted(rng.sample(range(len(graph) + 1), 2))
        at = rng.randrange(start, stop)
        op, window = timeline.order[at], timeline.order[start:stop]
        plain, next_to_it = WindowCutter(timeline).cut_window(start, stop, at)
        for ops in (plain, next_to_it):
            check_order(graph, [*timeline.order[:start], *ops, *timeline.order[stop:]])
        found = timeline.replay(start, stop, next_to_it)[0][next_to_it.index(op)]
        least = min(
            timeline.replay(start, stop, reroute(window, done, op))[0][sum(done[other] for other in window)]
            for done in _down_sets_before(graph, window, op)
        )
        assert found == least


def _down_sets_before(graph: Graph, window: list[int], op: int) -> Iterator[list[bool]]:
    """Every set of ops of the window that may have run when `op` starts, as flags by op."""
    inside = set(window)
    for flags in itertools.product((False, True), repeat=len(window)):
        done = [False] * len(graph)
        for other, flag in zip(window, flags, strict=True):
            done[other] = flag
        if done[op]:
            continue
        needed = [op, *(other for other in window if done[other])]
        if all(done[before] for other in needed for before in graph.predecessors[other] if before in inside):
            yield done


def test_rerouting_raises_only_steps_of_ops_that_change_sides() -> None:
    """The claim of cuts.py, for random orders and random ops."""
    rng = random.Random(34)
    for graph in random_graphs(300, seed=34, largest=20):
        timeline = Timeline(graph, random_order(graph, rng))
        op = rng.randrange(len(graph))
        cut = CutSolver(graph).cut_at(op)
        assert cut is not None
        rerouted = Timeline(graph, reroute(timeline.order, cut.done))
        for other in range(len(graph)):
            if (timeline.position[other] < timeline.position[op]) == bool(cut.done[other]):
                before = timeline.step_peaks[timeline.position[other]]
                assert rerouted.step_peaks[rerouted.position[other]] <= before


def staircase(layers: int) -> tuple[Graph, list[int]]:
    """x0 ──> x1 ──> ...; in each layer x feeds g (10 bytes), and s adds that to the sum of the layers so far.

    The order is the worst one, all of x, then all of g, then the sums: the gradients of all layers live together.
    """
    buffers = []
    for layer in range(layers):
        x, g, s = (3 * layer + part for part in range(3))
        last = layer + 1 == layers
        buffers.append(Buffer(f"x{layer}", 1, x, (g,) if last else (g, x + 3)))
        buffers.append(Buffer(f"g{layer}", 10, g, (s,)))
        buffers.append(Buffer(f"s{layer}", 10, s, () if last else (s + 3,), last))
    graph = Graph("staircase", tuple(Op(f"op{op}") for op in range(3 * layers)), tuple(buffers))
    return graph, [op for part in range(3) for op in range(part, 3 * layers, 3)]


def nested(graph: Graph, order: Sequence[int], floor: int) -> tuple[Timeline, int]:
    """The timeline after nested cuts, and the units that they spent."""
    timeline, budget = Timeline(graph, order), Budget(1 << 40)
    NestedCuts(timeline, WindowCutter(timeline), floor, budget).lower()
    return timeline, (1 << 40) - budget.units


def test_nested_cuts_bring_a_staircase_near_its_floor_with_work_that_grows_little_faster_than_the_graph() -> None:
    """A cut of the whole for each layer would be four times the work at twice the layers."""
    spent = {}
    for layers in (200, 400):
        graph, order = staircase(layers)
        floor, _ = cut_bound(graph)
        assert peak_bytes(graph, order) > 10 * layers > 20 * floor
        found, spent[layers] = nested(graph, order, floor)
        assert peak_bytes(graph, found.order) < 1.5 * floor
    assert spent[400] < 2.5 * spent[200]


def test_nested_cuts_never_raise_a_peak_and_leave_a_timeline_that_agrees_with_a_replay() -> None:
    rng = random.Random(41)
    lowered = 0
    for graph in random_graphs(300, seed=41, largest=24):
        order = random_order(graph, rng)
        found, _ = nested(graph, order, cut_bound(graph)[0])
        check_order(graph, found.order)
        assert tuple(found.step_peaks) == memory_profile(graph, found.order).step_peaks
        assert peak_bytes(graph, found.order) <= peak_bytes(graph, order)
        lowered += peak_bytes(graph, found.order) < peak_bytes(graph, order)
    assert lowered > 100


def test_improve_is_never_worse_and_finds_most_optima_of_small_graphs() -> None:
    rng = random.Random(35)
    optimal = 0
    for graph in random_graphs(120, seed=35):
        start = random_order(graph, rng)
        order = improve(graph, start, budget=Budget(1_000))
        check_order(graph, order)
        assert peak_bytes(graph, order) <= peak_bytes(graph, start)
        optimal += peak_bytes(graph, order) == brute_force_peak(graph)
    assert optimal >= 117


def test_improve_stops_at_the_floor() -> None:
    """With the optimum as floor most of the budget is left over."""
    for graph in random_graphs(40, seed=36):
        budget = Budget(20_000)
        order = improve(graph, graph.topological_order, floor=brute_force_peak(graph), budget=budget)
        if peak_bytes(graph, order) == brute_force_peak(graph):
            assert budget.units > 10_000


def test_an_empty_budget_returns_an_order_that_is_no_worse() -> None:
    for graph in random_graphs(50, seed=37):
        order = improve(graph, graph.topological_order, budget=Budget(0))
        check_order(graph, order)
        assert peak_bytes(graph, order) <= peak_bytes(graph, graph.topological_order)


def test_the_same_call_gives_the_same_order_for_all_hash_seeds_and_names() -> None:
    """In two other processes with their own hash seeds, and with other op names."""
    program = (
        "import json, random; from memsched.core.graph import Graph, Op; from memsched.search.budget import Budget;"
        "from memsched.search.local.search import improve; from tests.oracle import random_graph;"
        "g = random_graph(random.Random(38), 'general', 60);"
        "h = Graph('', tuple(Op(f'z{60 - i}', workspace=o.workspace) for i, o in enumerate(g.ops)), g.buffers,"
        " g.order_edges);"
        "print(json.dumps([improve(x, x.topological_order, budget=Budget(3000), seed=5) for x in (g, h)]))"
    )
    answers = []
    for hash_seed in ("0", "12345"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        answers += json.loads(run.stdout)
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("shape", ["chain", "wide", "ragged"])
def test_20_000_ops_stay_within_the_budget(shape: str) -> None:
    """Two seconds' worth of units; what is measured includes the four stock orders, which cost the same again."""
    graph = SHAPES[shape](20_000)
    started = time.process_time()
    order = improve(graph, graph.topological_order, budget=Budget(2 * UNITS_PER_SECOND))
    assert time.process_time() - started < 12
    check_order(graph, order)
    assert peak_bytes(graph, order) <= peak_bytes(graph, graph.topological_order)


CLOSED_BY_LOCAL_SEARCH = ("gpt_ac.bwd.prefusion", "llama_ac.bwd.prefusion", "one_traversal_ac.fwd.postfusion",
                          "two_traversal_ac.bwd.postfusion", "unet_ac.fwd.postfusion")  # fmt: skip


@pytest.mark.parametrize("name", CLOSED_BY_LOCAL_SEARCH)
def test_captured_graphs_meet_their_cut_bound(name: str) -> None:
    """Stock is up to twice above the bound on these; a second's worth of units closes the gap."""
    path = INSTANCES / f"{name}.json.gz"
    if not path.exists():
        pytest.skip("no captured instances: set MEMSCHED_INSTANCES")
    graph = read_graph(path)
    stock = min(stock_orders(graph).values(), key=lambda order: peak_bytes(graph, order))
    bound, _ = cut_bound(graph, incumbent_order=stock)
    assert bound < peak_bytes(graph, stock)
    order = improve(graph, stock, floor=bound, budget=Budget(UNITS_PER_SECOND))
    assert peak_bytes(graph, order) == bound


def test_improve_on_graphs_beyond_brute_force_is_never_worse_than_the_stock_orders() -> None:
    rng = random.Random(40)
    for kind in ("in_tree", "out_tree", "two_terminal", "vertex_series_parallel", "general"):
        graph = random_graph(rng, kind, 80)
        order = improve(graph, random_order(graph, rng), budget=Budget(2_000))
        check_order(graph, order)
        assert peak_bytes(graph, order) <= min(peak_bytes(graph, stock) for stock in stock_orders(graph).values())

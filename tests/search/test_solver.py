"""The policy: one suite over all methods and over relabelled graphs, the promises of `solve`, and its scale."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import pytest

from bench.orders.shapes import chain, layered, wide
from memsched.check.certificate import check_certificate
from memsched.check.error import CheckError
from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.core.result import Options, Schedule, StatementCertificate, Status
from memsched.search import solver, stages
from memsched.search.budget import Budget
from memsched.search.models.child import SOLVERS
from memsched.search.orders.inductor import stock_orders
from memsched.search.refute.refute import refute
from memsched.search.solver import METHODS, SolverError, Stage, solve
from memsched.search.state import State
from tests.oracle import brute_force_peak, random_graphs, random_order

EXACT = ("auto", "valley", "kernel", "cpsat", "ilp", "cbc", "model-ilp")
"""Methods that must close every small graph."""


def relabelled(graph: Graph, seed: int) -> tuple[Graph, list[int]]:
    """The same graph with its ops in another legal order and buffers shuffled, and where each op went."""
    rng = random.Random(seed)
    order = random_order(graph, rng)
    place = [0] * len(order)
    for at, op in enumerate(order):
        place[op] = at
    buffers = [
        Buffer(
            buffer.name,
            buffer.size,
            None if buffer.producer is None else place[buffer.producer],
            tuple(sorted(place[op] for op in buffer.consumers)),
            buffer.kept,
        )
        for buffer in graph.buffers
    ]
    rng.shuffle(buffers)
    edges = tuple((place[before], place[after]) for before, after in graph.order_edges)
    return Graph(graph.name, tuple(graph.ops[op] for op in order), tuple(buffers), edges), place


def assert_sound(graph: Graph, schedule: Schedule, optimum: int, notes: tuple[str, ...] = ("",)) -> None:
    """Everything that any method promises about any graph; and no note but one of `notes`."""
    check_order(graph, schedule.order)
    assert schedule.peak == peak_bytes(graph, schedule.order)
    assert schedule.lower_bound <= optimum <= schedule.peak
    assert schedule.status is not Status.OPTIMAL or schedule.peak == optimum
    assert schedule.status is not Status.HEURISTIC or schedule.lower_bound == 0
    proved = check_certificate(graph, schedule.certificate, schedule.lower_bound)
    assert proved or isinstance(schedule.certificate, StatementCertificate)
    assert schedule.note in notes


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_graphs_and_on_the_same_graphs_relabelled(method: str) -> None:
    """Valid, sound, and for exact methods optimal: whatever the ops are called and in whatever order they come in."""
    in_child = method in SOLVERS
    for index, graph in enumerate(random_graphs(3 if in_child else 60, seed=31, largest=7 if in_child else 10)):
        optimum = brute_force_peak(graph)
        for variant in (graph, relabelled(graph, index)[0]):
            schedule = solve(variant, Options(20.0, None if in_child else 2000, method=method, strict=True))
            assert_sound(variant, schedule, optimum)
            if method in EXACT:
                assert schedule.status is Status.OPTIMAL
            if method not in ("model-ilp", "xla"):
                assert schedule.peak <= min(peak_bytes(variant, order) for order in stock_orders(variant).values())


def test_auto_is_optimal_on_small_graphs_of_every_kind() -> None:
    """The campaign `policy` runs 100,000 of these."""
    for graph in random_graphs(400, seed=32, largest=12):
        schedule = solve(graph, Options(strict=True))
        assert_sound(graph, schedule, brute_force_peak(graph))
        assert schedule.status is Status.OPTIMAL


def two_hills() -> Graph:
    """The incoming order runs both hills at once; one after the other needs less.

    a0 ──9──> a1 ──1──> t          incoming a0 b0 a1 b1 t: 9 + 9 + 1 = 19
    b0 ──9──> b1 ──1──> t          a0 a1 b0 b1 t:          9 + 1 + 1 = 11
    """
    ops = tuple(map(Op, ("a0", "b0", "a1", "b1", "t")))
    buffers = (Buffer("A", 9, 0, (2,)), Buffer("B", 9, 1, (3,)), Buffer("C", 1, 2, (4,)), Buffer("D", 1, 3, (4,)))
    return Graph("two hills", ops, buffers)


def test_two_hills() -> None:
    schedule = solve(two_hills())
    assert schedule.peak == schedule.lower_bound == 11
    assert schedule.status is Status.OPTIMAL


def test_start_orders_are_never_lost() -> None:
    """No work is allowed: the answer is the best of what was given and Inductor's candidates."""
    nothing = Options(time_limit_s=0.0, method="stock")
    for graph in random_graphs(50, seed=33, largest=9):
        best = solve(graph).order
        schedule = solve(graph, nothing, start_orders=[best])
        assert schedule.peak <= peak_bytes(graph, best)


def test_a_wrong_start_order_is_refused() -> None:
    with pytest.raises(CheckError, match="runs before"):
        solve(two_hills(), start_orders=[(2, 0, 1, 3, 4)])


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(SolverError, match="method 'magic' is unknown"):
        solve(two_hills(), Options(method="magic"))


@pytest.mark.parametrize("time_limit", [0.0, 0.001, 0.05])
def test_anytime(time_limit: float) -> None:
    """However little time there is: a valid order, not above stock, and a bound that holds."""
    for graph in random_graphs(40, seed=34, largest=10):
        schedule = solve(graph, Options(time_limit_s=time_limit))
        assert_sound(graph, schedule, brute_force_peak(graph), ("", "stopped by the clock"))


def test_what_the_clock_stops_says_so_and_what_units_stop_does_not() -> None:
    """The clock ends a search at another place on another machine: a reader must know which of the two it was."""
    graph = layered(400)
    assert solve(graph, Options(time_limit_s=0.05, work_limit=10**9)).note == "stopped by the clock"
    assert solve(graph, Options(time_limit_s=600.0, work_limit=1_000)).note == ""


def test_more_work_is_never_worse() -> None:
    for graph in random_graphs(40, seed=35, largest=12):
        peaks = [solve(graph, Options(work_limit=units, use_ilp=False)).peak for units in (0, 10, 100, 10_000)]
        assert peaks == sorted(peaks, reverse=True)


# ---- stages that fail


def use_stage(monkeypatch: pytest.MonkeyPatch, run: Callable[[State], None]) -> None:
    monkeypatch.setitem(solver._STAGES_OF, "auto", (Stage("bad", run), Stage("stock", stages.stock)))


def offer_garbage(state: State) -> None:
    state.offer((0, 0, 1, 2, 3), "garbage")


def offer_illegal(state: State) -> None:
    state.offer((4, 3, 2, 1, 0), "garbage")


def prove_too_much(state: State) -> None:
    state.prove(10_000, StatementCertificate(10_000, "garbage", ""))


def refute_the_bound(state: State) -> None:
    state.prove(12, StatementCertificate(12, "garbage", ""))
    state.offer((0, 2, 1, 3, 4), "the true optimum, 11")


def die(state: State) -> None:
    raise MemoryError("no more")


@pytest.mark.parametrize("run", [offer_garbage, offer_illegal, prove_too_much, die])
def test_what_a_broken_stage_says_is_dropped_and_noted(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[State], None]
) -> None:
    use_stage(monkeypatch, run)
    schedule = solve(two_hills())
    assert_valid_without_claims(schedule)
    assert schedule.note.startswith("bad: ")
    with pytest.raises(SolverError, match="bad: "):
        solve(two_hills(), Options(strict=True))


def assert_valid_without_claims(schedule: Schedule) -> None:
    check_order(two_hills(), schedule.order)
    assert schedule.peak == peak_bytes(two_hills(), schedule.order)
    assert schedule.lower_bound <= 11
    assert schedule.status is not Status.OPTIMAL


def test_a_bound_that_an_order_refutes_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage lies that 12 is a bound, and an order with 11 comes: that is said, not hidden."""
    use_stage(monkeypatch, refute_the_bound)
    assert "below the bound 12" in solve(two_hills()).note


@pytest.mark.parametrize("missing", ["ortools", "pulp", "highspy"])
def test_without_solvers_everything_else_works(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """The package is not there for the parent; graphs are still ordered, and small ones still optimally."""
    import sys

    for name in [name for name in sys.modules if name == missing or name.startswith(missing + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    for graph in random_graphs(10, seed=36, largest=9):
        assert solve(graph).peak == brute_force_peak(graph)


# ---- scale


@pytest.mark.parametrize("make", [chain, wide, layered])
def test_large_graphs_in_bounded_time(make: Callable[[int], Graph]) -> None:
    """5,000 ops here; `python -m bench scale` measures 20,000.  Nothing recurses on depth, nothing is quadratic."""
    graph = make(5_000)
    started = time.process_time()
    schedule = solve(graph, Options(time_limit_s=2.0, strict=True))
    assert time.process_time() - started < 15.0
    check_order(graph, schedule.order)
    assert schedule.peak <= min(peak_bytes(graph, order) for order in stock_orders(graph).values())
    assert schedule.lower_bound > 0


def test_a_large_graph_is_probed_in_bounded_time() -> None:
    """Work enough for every stage: probing asks which of twelve million precedences are direct, and reads no clock."""
    started = time.process_time()
    solve(layered(5_000), Options(time_limit_s=60.0, work_limit=20_000, strict=True))
    assert time.process_time() - started < 15.0


def test_refuting_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second half costs seconds on thousands of ops before it spends anything: it is not begun."""

    def begun(*_: object) -> None:
        raise AssertionError("the second half was begun")

    monkeypatch.setattr("memsched.search.refute.refute.break_symmetries", begun)
    graph = layered(300)
    peak = peak_bytes(graph, graph.topological_order)
    budget = Budget(10**9, deadline=time.thread_time())
    found = refute(graph, lower_bound=0, upper_bound=peak, budget=budget)
    assert budget.timed_out
    assert found.order is None
    assert found.certificate.bound <= solve(graph).peak


def reversed_names(names: Sequence[str]) -> list[str]:
    return [name[::-1] for name in names]


@pytest.mark.parametrize("rename", [reversed_names, lambda names: [f"x{len(names) - at}" for at in range(len(names))]])
def test_names_do_not_matter(rename: Callable[[Sequence[str]], list[str]]) -> None:
    for graph in random_graphs(30, seed=37, largest=12):
        names = rename([f"{op.name}!" for op in graph.ops])
        ops = tuple(Op(name, op.kind, op.workspace) for name, op in zip(names, graph.ops, strict=True))
        other = Graph("another name", ops, graph.buffers, graph.order_edges)
        assert solve(other).order == solve(graph).order


def test_an_interrupted_search_answers_with_the_best_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second stage: the order of the first one is there, and says so."""

    def interrupted(_state: object) -> None:
        raise KeyboardInterrupt

    stages = (solver._STOCK, solver.Stage("slow", interrupted))
    monkeypatch.setitem(solver._STAGES_OF, "auto", stages)
    graph = two_hills()
    with pytest.raises(KeyboardInterrupt):
        solve(graph)
    schedule = solve(graph, Options(answer_interrupted=True))
    assert schedule.interrupted and "interrupted in slow" in schedule.note
    check_order(graph, schedule.order)


def test_a_stopped_process_changes_no_plan() -> None:
    """Deadlines are CPU seconds of the thread: seconds in which nothing runs are not spent."""
    budget = Budget.for_seconds(0.5)
    time.sleep(0.7)
    assert not budget.exhausted_by_now()


def test_a_stage_that_raises_gives_back_its_share() -> None:
    budget = Budget(20_000)
    with pytest.raises(RuntimeError), budget.share(0.3) as part:
        assert part.units == 6_000
        raise RuntimeError
    assert budget.units == 20_000

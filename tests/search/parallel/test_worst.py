"""The worst case of parallel executions: against every execution of small graphs, and its proof against forgeries."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from memsched.check.error import CheckError
from memsched.check.execution import check_worst_case
from memsched.core.execution import Execution, WorstCase
from memsched.core.graph import MAX_BYTES, Buffer, Graph, Op
from memsched.core.result import Status
from memsched.core.sizes import InputError
from memsched.files.graph_file import read_graph
from memsched.search.parallel.worst import relaxed_worst_case, worst_case
from memsched.search.solver import solve
from tests.oracle import KINDS, most_bytes_of_executions, random_graph, random_graphs
from tests.paths import ROOT

LIMITS = (1, 2, 3, None)


def fork() -> Graph:
    r"""Two branches that one at a time never hold at once: 10 bytes in order, 14 in parallel.

        ┌──X 4──> b ──Y 3──┐
    a ──┤                  ├──> d
        └──Z 2──> c ──W 5──┘
    """
    ops = tuple(Op(name) for name in "abcd")
    buffers = (Buffer("X", 4, 0, (1,)), Buffer("Z", 2, 0, (2,)), Buffer("Y", 3, 1, (3,)), Buffer("W", 5, 2, (3,)))
    return Graph("fork", ops, buffers)


def independent_set() -> Graph:
    """A triangle of ops that share heavy inputs two by two: only one of them can have completed with all inputs held.

    The tensors have no last reader, so minimum cuts alone say too much: 30 + 3; in truth 30 + 3 with all three running.
    """
    shared = tuple(Buffer(f"edge {a}{b}", 10, None, (a, b)) for a, b in ((0, 1), (0, 2), (1, 2)))
    results = tuple(Buffer(f"result {op}", 1, op, (), kept=True) for op in range(3))
    return Graph("triangle", tuple(Op(f"op{op}") for op in range(3)), shared + results)


@pytest.mark.parametrize("parallel", LIMITS)
def test_as_every_execution(parallel: int | None) -> None:
    for graph in random_graphs(80, seed=11, largest=8):
        truth = most_bytes_of_executions(graph, parallel)
        relaxed, found = relaxed_worst_case(graph, parallel), worst_case(graph, parallel)
        assert relaxed.held <= truth <= relaxed.bound
        assert found.held == truth == found.bound
        check_worst_case(graph, relaxed)
        check_worst_case(graph, found)


def test_a_fork_holds_more_in_parallel() -> None:
    worst = worst_case(fork(), 2)
    assert (worst.held, worst.bound, worst.execution) == (14, 14, Execution((0,), (0, 1, 2)))
    assert worst.held > solve(fork()).peak == 10


def test_where_one_op_frees_each_tensor_minimum_cuts_are_enough() -> None:
    """The answer is proved without a search, whatever the size."""
    rng = random.Random(2)
    for kind in KINDS:
        graph = random_graph(rng, kind, 40, shared=False)
        worst = relaxed_worst_case(graph, None)
        assert worst.status is Status.OPTIMAL
        assert check_worst_case(graph, worst)


def test_one_op_at_a_time_is_the_worst_order() -> None:
    """With one op at once executions are orders, and the worst of them is above the best."""
    for graph in random_graphs(40, seed=3, largest=9):
        assert worst_case(graph, 1).held >= solve(graph).peak


def test_more_ops_at_once_never_hold_less() -> None:
    for graph in random_graphs(40, seed=4, largest=9):
        held = [worst_case(graph, parallel).held for parallel in LIMITS]
        assert held == sorted(held)


def test_a_shared_tensor_is_counted_too_long_and_never_too_short() -> None:
    graph = independent_set()
    assert relaxed_worst_case(graph, 1).bound >= most_bytes_of_executions(graph, 1) == worst_case(graph, 1).held


def test_without_ortools_the_bound_is_that_of_minimum_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = next(graph for graph in random_graphs(500, seed=6) if not _closed(relaxed_worst_case(graph, 2)))
    with_search = worst_case(graph, 2)
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    without = worst_case(graph, 2)
    assert "OR-Tools" in without.note
    assert without.held <= with_search.held <= with_search.bound <= without.bound


def test_a_captured_graph() -> None:
    """The backward of a GPT: 2.6 times the bytes of its best order, proved."""
    graph = read_graph(ROOT / "bench/instances/gpt_ac.bwd.postfusion.json.gz")
    worst = relaxed_worst_case(graph, None)
    assert worst.status is Status.OPTIMAL
    assert worst.held == 66_936_832
    assert check_worst_case(graph, worst)


def test_forged_statements_are_refused() -> None:
    """Every number of a statement is changed by a little, in the direction that would claim more."""
    refused = 0
    for graph in random_graphs(60, seed=8, largest=10):
        for parallel in (2, None):
            worst = relaxed_worst_case(graph, parallel)
            for forged in _forgeries(worst):
                with pytest.raises(CheckError):
                    check_worst_case(graph, forged)
                refused += 1
    assert refused > 500


def _forgeries(worst: WorstCase) -> Iterator[WorstCase]:
    certificate = worst.certificate
    yield replace(worst, held=worst.held + 1)
    yield replace(worst, bound=worst.held - 1)
    yield replace(worst, certificate=replace(certificate, bound=certificate.bound - 1))
    yield replace(worst, certificate=replace(certificate, running_price=-1))
    for field in ("completion_flow", "precedence_flow", "freed_flow"):
        flow = getattr(certificate, field)
        if flow:
            changed = ((*flow[0][:-1], -flow[0][-1]), *flow[1:])
            yield replace(worst, certificate=replace(certificate, **{field: changed}))
    last = len(worst.execution.started)
    if last:
        yield replace(worst, execution=Execution(worst.execution.started, (*worst.execution.completed, 99)))


def _closed(worst: WorstCase) -> bool:
    return worst.held == worst.bound


@pytest.mark.parametrize("power", [52, 56])
def test_sizes_that_no_double_holds(power: int) -> None:
    """CP-SAT states bounds as doubles and OR-Tools' flow takes 64 bits: neither may make a bound too low, or fail."""
    asked = 0
    for at, graph in enumerate(random_graphs(60, seed=77, largest=8)):
        scale = (1 << power) + at
        ops = tuple(replace(op, workspace=op.workspace * scale) for op in graph.ops)
        buffers = tuple(replace(buffer, size=buffer.size * scale + 1) for buffer in graph.buffers)
        if sum(op.workspace for op in ops) + sum(buffer.size for buffer in buffers) > MAX_BYTES:
            continue
        large = replace(graph, ops=ops, buffers=buffers)
        for parallel in (1, 2, None):
            truth, found = most_bytes_of_executions(large, parallel), worst_case(large, parallel)
            assert found.held <= truth <= found.bound
            check_worst_case(large, found)
            asked += 1
    assert asked >= 50


@pytest.mark.parametrize("parallel", [0, -1])
def test_at_least_one_op_runs(parallel: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        worst_case(fork(), parallel)

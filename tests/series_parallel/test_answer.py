"""What a report says about the shape of its graph: the depth of the tree, or the N; compiled, and out of the cache."""

from __future__ import annotations

import itertools
import json

from memsched.core.graph import Graph
from memsched.records.published import reports, reset, restore_report
from memsched.records.report import GraphKind, GraphReport, SeriesParallel
from memsched.search.solver import solve
from memsched.series_parallel.answer import series_parallel_answer
from tests.core.test_graph import diamond
from tests.oracle import random_graphs


def test_a_diamond_is_two_deep() -> None:
    """a, then b beside c, then d."""
    assert series_parallel_answer(diamond()) == SeriesParallel(2)


def test_the_witness_is_an_induced_n() -> None:
    """Against the closure of the precedences: a < c, a < d, b < d, and every other pair incomparable."""
    shown = 0
    for graph in random_graphs(120, seed=12, kinds=("general",)):
        answer = series_parallel_answer(graph)
        if answer.depth is None:
            a, b, c, d = (next(at for at, op in enumerate(graph.ops) if op.name == name) for name in answer.witness)
            ordered = {(first, second) for first, second in itertools.permutations((a, b, c, d), 2)
                       if graph.ancestors[second] >> first & 1}  # fmt: skip
            assert ordered == {(a, c), (a, d), (b, d)}
            shown += 1
    assert shown > 20


def test_a_report_out_of_a_cache_keeps_the_answer() -> None:
    graph: Graph = diamond()
    answer = series_parallel_answer(graph)
    told = GraphReport.planned(
        graph, solve(graph), name="forward 0", kind=GraphKind.FORWARD, stock_peak=0, kernels=4, series_parallel=answer
    )
    reset()
    restore_report(json.dumps(told.to_json()))
    assert [report.series_parallel for report in reports()] == [answer]
    reset()

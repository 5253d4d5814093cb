"""An estimate says what a graph needs, not how far a search has come."""

from __future__ import annotations

import pytest
import torch
from torch import fx
from torch._subclasses import FakeTensorMode

from memsched.core.graph import Graph
from memsched.core.result import Options, Schedule
from memsched.inductor import estimate
from memsched.inductor.rewrites.nodes import call_with_value
from memsched.search.solver import solve


def chain(products: int) -> fx.Graph:
    graph = fx.Graph()
    with FakeTensorMode():
        x = graph.placeholder("x")
        x.meta["val"] = torch.empty(8, 8)
        out = x
        for _ in range(products):
            out = call_with_value(graph, torch.ops.aten.mm.default, (out, x))
        graph.output(out)
    return graph


def test_the_search_takes_as_long_as_a_graph_is_large_and_no_less_than_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step of a Llama of 16 layers has 10,800 nodes; 0.1 CPU s were over before the search had come to its end."""
    given: list[Options] = []

    def watched(graph: Graph, options: Options, **more: object) -> Schedule:
        given.append(options)
        return solve(graph, options, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(estimate, "solve", watched)
    for products, least in ((10, 0.1), (10, 0.2), (3000, 0.1)):
        assert estimate.estimated_peak(chain(products), least) == 2 * 256
    few, longer, many = (options.work_limit for options in given)
    assert few is not None and longer is not None and many is not None
    assert longer == 2 * few and many >= 3 * few

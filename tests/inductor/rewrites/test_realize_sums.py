"""Which sums are realized: those that let their terms go, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from memsched.check.order import check_order
from memsched.core.peak import peak_bytes
from memsched.inductor.estimate import estimated_graph, estimated_peak
from memsched.inductor.rewrites.realize_sums import realize_sums

aten = torch.ops.aten


def stream(terms_live_on: bool = False, gap: bool = True) -> fx.Graph:
    """a, b ──> s = a + b ──> products ──> later = s + c

    terms_live_on: a and b are returned, so s would lie beside them; gap: products run between s and its last reader.
    """
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    a = graph.call_function(aten.mm.default, (x, weight))
    b = graph.call_function(aten.mm.default, (x, weight))
    s = graph.call_function(aten.add.Tensor, (a, b))
    c = graph.call_function(aten.mm.default, (graph.call_function(aten.relu.default, (s,)), weight)) if gap else x
    later = graph.call_function(aten.add.Tensor, (s, c))
    end = graph.call_function(aten.mm.default, (later, weight))
    graph.output((end, a, b) if terms_live_on else (end,))
    for node in graph.nodes:
        node.meta["val"] = torch.empty(8, 8, device="meta")
    return graph


def test_a_sum_whose_terms_only_wait_for_it_is_realized() -> None:
    graph = stream()
    (seen,) = realize_sums(graph)
    assert seen.target is torch.ops.memsched.realize.default
    assert seen.args[0].target is aten.add.Tensor and seen.args[0].args[0].target is aten.mm.default  # type: ignore[union-attr]


@pytest.mark.parametrize("case", [{"terms_live_on": True}, {"gap": False}], ids=["terms live on", "nothing between"])
def test_a_sum_is_left_inlined(case: dict[str, bool]) -> None:
    assert realize_sums(stream(**case)) == []


def test_the_estimate_sees_what_realizing_saves() -> None:
    """Inlined: a, b and c wait for `later`, 3 x 256 bytes and its result.  Realized: s takes the place of a and b."""
    before = estimated_graph(stream())
    check_order(before, range(len(before)))
    names = ["mm_default", "mm_default_1", "relu_default", "mm_default_2", "add_tensor_1", "mm_default_3"]
    assert [op.name for op in before.ops] == names
    assert peak_bytes(before, range(len(before))) == 4 * 256
    graph = stream()
    realize_sums(graph)
    assert estimated_peak(graph, 0.1) == 3 * 256 < estimated_peak(stream(), 0.1)

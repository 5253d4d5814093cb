"""The loss in chunks: the same loss and gradients, and no tensor as large as the logits.

The joint graph of forward and backward is made by torch itself, changed, and run operator by operator: no compiler.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._inductor.decomposition import select_decomp_table
from torch.nn import functional

from memsched.inductor.rewrites.chunk_loss import chunk_loss, chunk_tokens
from memsched.inductor.rewrites.chunk_loss.passes import linear_in, passes_of
from memsched.inductor.rewrites.chunk_loss.products import is_product
from memsched.inductor.rewrites.chunk_loss.region import products_of, region_of
from memsched.inductor.rewrites.traversal import tangents_of
from tests.inductor.rewrites.chunk_loss.losses import LOSSES, WHOLE, WORDS, Loss

aten = torch.ops.aten
BATCH, LENGTH, WIDTH = 4, 6, 8
LOGITS = BATCH * LENGTH * WORDS
INVOKE = torch.ops.higher_order.invoke_subgraph


def joint_graph(function: Any, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """Forward and backward of `function`, for inputs of which some require a gradient."""
    return aot_export_joint_simple(function, tuple(inputs), trace_joint=True, decompositions=select_decomp_table())


def language_model(loss: Loss, bias: bool) -> tuple[Any, list[Tensor]]:
    def forward(x: Tensor, weight: Tensor, b: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (loss(functional.linear(x, weight, b if bias else None), y),)

    torch.manual_seed(0)
    double = torch.float64
    x, weight = torch.randn(BATCH, LENGTH, WIDTH, dtype=double), torch.randn(WORDS, WIDTH, dtype=double)
    trained = [one.requires_grad_() for one in (x, weight, torch.randn(WORDS, dtype=double))]
    return forward, [*trained, torch.randint(WORDS, (BATCH, LENGTH))]


def trained(*shapes: tuple[int, int]) -> list[Tensor]:
    """Matrices with values as in a model, which require gradients."""
    torch.manual_seed(0)
    values = [torch.randn(shape, dtype=torch.float64) / math.sqrt(shape[0]) for shape in shapes]
    return [value.requires_grad_() for value in values]


def run(gm: fx.GraphModule, inputs: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Any]:
    with torch.no_grad():
        return list(torch.utils._pytree.tree_leaves(fx.Interpreter(gm).run(*inputs, *tangents)))


def tangents_for(gm: fx.GraphModule) -> list[Tensor]:
    values = [node.meta["val"] for node in tangents_of(gm.graph)]
    return [torch.full(value.shape, 3.0, dtype=value.dtype) for value in values]


def large(gm: fx.GraphModule) -> list[fx.Node]:
    """What is as large as the logits."""
    values = ((node, node.meta.get("val")) for node in gm.graph.nodes if node.op == "call_function")
    return [node for node, value in values if isinstance(value, Tensor) and value.numel() >= 0.5 * LOGITS]


def calls_of(gm: fx.GraphModule) -> list[fx.Node]:
    return [node for node in gm.graph.nodes if node.target is INVOKE]


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("case", LOSSES.values(), ids=LOSSES)
def test_the_loss_and_its_gradients_are_the_same_and_no_logits_are_whole(case: tuple[Loss, int], bias: bool) -> None:
    loss, passes = case
    function, inputs = language_model(loss, bias)
    gm = joint_graph(function, inputs)
    tangents = tangents_for(gm)
    wanted = run(gm, inputs, tangents)
    assert len(chunk_loss(gm.graph, 3)) == 3 * passes
    gm.recompile()
    found = run(gm, inputs, tangents)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
    # What is left is computed from targets alone, without the logits, and fuses into its reader.
    products = [node for node in large(gm) if any(is_product(one) for one in node.all_input_nodes) or is_product(node)]
    assert not products
    for call in calls_of(gm):
        part = getattr(gm, call.args[1])
        sizes = [math.prod(node.meta["val"].shape) for node in part.graph.nodes if node.op == "call_function"]
        assert max(sizes) == LOGITS // 3


@pytest.mark.parametrize("loss", WHOLE.values(), ids=WHOLE)
def test_what_needs_the_logits_whole_leaves_the_graph_as_it_is(loss: Loss, caplog: pytest.LogCaptureFixture) -> None:
    function, inputs = language_model(loss, bias=False)
    gm = joint_graph(function, inputs)
    before = [node.format_node() for node in gm.graph.nodes]
    with caplog.at_level(logging.DEBUG, logger="memsched"):
        assert chunk_loss(gm.graph, 3) == []
    assert [node.format_node() for node in gm.graph.nodes] == before
    assert any("stays whole" in record.message and "reads" in record.message for record in caplog.records)


def test_logits_that_the_model_returns_stay_whole() -> None:
    def forward(x: Tensor, weight: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = x @ weight
        return functional.cross_entropy(logits, y), logits

    inputs = [torch.randn(12, 8, requires_grad=True), torch.randn(8, WORDS, requires_grad=True)]
    gm = joint_graph(forward, [*inputs, torch.randint(WORDS, (12,))])
    assert chunk_loss(gm.graph, 3) == []


def test_more_chunks_than_rows_leave_the_graph_as_it_is() -> None:
    function, inputs = language_model(LOSSES["cross entropy"][0], bias=False)
    gm = joint_graph(function, inputs)
    assert chunk_loss(gm.graph, BATCH * LENGTH + 1) == []


@pytest.mark.parametrize("chunks", [2, 5, 7, 24])
def test_chunks_need_not_divide_the_rows(chunks: int) -> None:
    """24 rows in 5 chunks are 5, 5, 5, 5 and 4: a subgraph for the first, one for equals, one for the rest."""
    function, inputs = language_model(LOSSES["z-loss"][0], bias=True)
    gm = joint_graph(function, inputs)
    tangents = tangents_for(gm)
    wanted = run(gm, inputs, tangents)
    chunk_loss(gm.graph, chunks)
    gm.recompile()
    torch.testing.assert_close(run(gm, inputs, tangents), wanted, rtol=1e-12, atol=1e-13)
    assert len({call.args[1] for call in calls_of(gm)}) <= 3


def test_a_block_is_no_loss_though_its_inside_is_larger_than_the_logits() -> None:
    """x ──> up [24, 512] ──> gelu ──> down ──> head [24, 64] ──> loss: only the head's logits come in chunks."""

    def forward(x: Tensor, up: Tensor, down: Tensor, head: Tensor, y: Tensor) -> tuple[Tensor]:
        return (functional.cross_entropy((x + functional.gelu(x @ up) @ down) @ head, y),)

    shapes = [(24, 8), (8, 512), (512, 8), (8, WORDS)]
    gm = joint_graph(forward, [*trained(*shapes), torch.randint(WORDS, (24,))])
    calls = chunk_loss(gm.graph, 4)
    assert len(calls) == 4
    assert any(is_product(node) and node.meta["val"].shape == (24, 512) for node in gm.graph.nodes)


def test_a_second_head_and_a_reference_model_come_in_chunks_too() -> None:
    """Two predictions for each token, and a frozen model beside: three times logits of as many words."""

    def forward(x: Tensor, one: Tensor, two: Tensor, frozen: Tensor, y: Tensor) -> tuple[Tensor]:
        reference = (x.detach() @ frozen).log_softmax(-1)
        apart = functional.kl_div((x @ one).log_softmax(-1), reference, reduction="batchmean", log_target=True)
        return (functional.cross_entropy(x @ one, y) + functional.cross_entropy(x @ two, y) + apart,)

    double = torch.float64
    weights = [torch.randn(8, WORDS, dtype=double, requires_grad=trained) for trained in (True, True, False)]
    inputs = [torch.randn(24, 8, dtype=double, requires_grad=True), *weights, torch.randint(WORDS, (24,))]
    gm = joint_graph(forward, inputs)
    tangents = tangents_for(gm)
    wanted = run(gm, inputs, tangents)
    assert chunk_loss(gm.graph, 4)
    gm.recompile()
    torch.testing.assert_close(run(gm, inputs, tangents), wanted, rtol=1e-12, atol=1e-13)
    assert not [node for node in gm.graph.nodes if is_product(node) and node.meta["val"].numel() >= 24 * WORDS]


def test_gradients_in_half_precision_wait_for_the_tangent_that_scales_them() -> None:
    """A gradient scaler multiplies the loss so that small gradients are not lost: 1 in its place would lose them."""
    for dtype, passes in ((torch.float16, 2), (torch.bfloat16, 1), (torch.float32, 1)):
        inputs = [torch.randn(12, 8, dtype=dtype, requires_grad=True), torch.randn(8, WORDS, dtype=dtype)]
        gm = joint_graph(
            lambda x, w, y: (functional.cross_entropy((x @ w), y),), [*inputs, torch.randint(WORDS, (12,))]
        )
        assert passes_of(gm.graph, region_of(gm.graph, products_of(gm.graph)[0])).count == passes


def test_what_is_not_linear_in_the_tangent_is_told() -> None:
    """Autograd's backward is linear; a node that is not must not be computed with 1 and scaled afterwards."""
    graph = fx.Graph()
    tangent, x = graph.placeholder("tangents_1"), graph.placeholder("x")
    product = graph.call_function(aten.mul.Tensor, (tangent, x))
    scaled = graph.call_function(aten.div.Tensor, (product, 3))
    total = graph.call_function(aten.add.Tensor, (scaled, product))
    assert linear_in(tangent, graph, {product, scaled, total})
    for target, args in (
        (aten.mul.Tensor, (product, scaled)),
        (aten.exp.default, (product,)),
        (aten.div.Tensor, (x, product)),
        (aten.add.Tensor, (product, 1)),
        (aten.add.Tensor, (product, x)),
        (aten.where.self, (product, x, x)),
        (aten.pow.Tensor_Scalar, (product, 2)),
    ):
        with graph.inserting_after(total):
            node = graph.call_function(target, args)
        assert not linear_in(tangent, graph, {product, scaled, total, node})
        graph.erase_node(node)


def test_the_chunks_themselves_are_not_chunked_again() -> None:
    """Inductor runs its passes over new subgraphs, too."""
    function, inputs = language_model(LOSSES["cross entropy"][0], bias=False)
    gm = joint_graph(function, inputs)
    chunk_loss(gm.graph, 2)
    part = getattr(gm, calls_of(gm)[0].args[1])
    before = copy.deepcopy(part.graph)
    assert chunk_loss(part.graph, 2) == []
    assert len(before.nodes) == len(part.graph.nodes)


def gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return x + (functional.silu(x @ gate) * (x @ up)) @ down


def plain(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return x + functional.gelu(x @ up) @ down


@pytest.mark.parametrize(("block", "weights"), [(gated, 3), (plain, 2)])
def test_the_wide_inside_of_blocks_comes_in_chunks_of_tokens(block: Any, weights: int) -> None:
    """x [24, 8] ──> [24, 64] ──> [24, 8], three times: never 24 rows of 64, and the blocks share their subgraphs."""

    def forward(x: Tensor, *all_weights: Tensor) -> tuple[Tensor]:
        for at in range(0, len(all_weights), weights):
            x = block(x, *all_weights[at : at + weights])
        return (x.square().mean(),)

    shapes = [(24, 8), *([*[(8, 64)] * (weights - 1), (64, 8)] * 3)]
    inputs = trained(*shapes)
    gm = joint_graph(forward, inputs)
    tangents = tangents_for(gm)
    wanted = run(gm, inputs, tangents)
    calls = chunk_tokens(gm.graph, 4)
    gm.recompile()
    assert len(calls) == 3 * 2 * 4
    assert not [node for node in large(gm) if node.meta["val"].shape[0] == 24]
    torch.testing.assert_close(run(gm, inputs, tangents), wanted, rtol=1e-12, atol=1e-13)
    # One for chunks forward, one for chunks backward: gradients of weights are summed up outside of them.
    assert len({call.args[1] for call in calls}) == 2


def test_what_mixes_tokens_stays_whole_and_scores_come_in_chunks_of_queries() -> None:
    """Keys and values are needed whole by every chunk; the scores [24, 24] are by rows of queries."""

    def forward(x: Tensor, weight: Tensor, out: Tensor) -> tuple[Tensor]:
        query, key, value = (x @ weight).view(24, 3, 16).unbind(1)
        return (((query @ key.t()).softmax(-1) @ value @ out).square().mean(),)

    shapes = [(24, 8), (8, 48), (16, 8)]
    inputs = trained(*shapes)
    gm = joint_graph(forward, inputs)
    tangents = tangents_for(gm)
    wanted = run(gm, inputs, tangents)
    assert chunk_tokens(gm.graph, 4)
    gm.recompile()
    torch.testing.assert_close(run(gm, inputs, tangents), wanted, rtol=1e-12, atol=1e-13)
    products = {tuple(node.meta["val"].shape) for node in gm.graph.nodes if is_product(node)}
    assert (24, 48) in products and (24, 24) not in products

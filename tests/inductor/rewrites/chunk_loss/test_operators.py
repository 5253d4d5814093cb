"""Each operator by rows: the chunks put together are the whole, where the rule says that it is by rows at all.

A tensor is brought to [rows, *rest] here by moving dimensions, without the rules; so is the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from memsched.inductor.rewrites.chunk_loss.along import type_of_sum
from memsched.inductor.rewrites.chunk_loss.operators import piece_for, piece_reading
from memsched.inductor.rewrites.chunk_loss.rows import Dims, Operand, Piece

aten = torch.ops.aten
BOUNDS = ((0, 4), (4, 8), (8, 12))
"""Twelve rows in three chunks."""


def in_rows(value: Tensor, rows: Dims, sizes: Dims) -> Tensor:
    """[rows, *rest], whatever dimensions count rows; broadcast to `sizes` there."""
    value = value.reshape([1] * max(0, -min(rows) - value.dim()) + list(value.shape))
    wanted = list(value.shape)
    for row, size in zip(rows, sizes, strict=True):
        wanted[row] = size
    value = value.expand(wanted).movedim([row + value.dim() for row in rows], list(range(len(rows))))
    return value.reshape(math.prod(sizes), *value.shape[len(rows) :])


def last_operator(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> fx.Node:
    graph = make_fx(function, tracing_mode="fake")(*inputs).graph
    (result,) = graph.output_node().all_input_nodes
    return result


def computed(piece: Piece, known: dict[fx.Node, Tensor]) -> Tensor:
    """The result of a piece, chunk by chunk."""

    def chunk(operand: Operand, bound: tuple[int, int]) -> Tensor:
        whole = known[operand.node]
        return in_rows(whole, operand.rows, operand.sizes)[slice(*bound)] if operand.rows else whole

    parts = [
        piece.compute(bound[1] - bound[0], {operand.node: chunk(operand, bound) for operand in piece.operands})
        for bound in BOUNDS
    ]
    return sum(parts[1:], parts[0]) if piece.is_sum else torch.cat(parts)


def check(function: Callable[..., Tensor], inputs: Sequence[Tensor], rows: Dims) -> Dims | None:
    """The rows of the result; None where it is not by rows.  Compares the chunks with the whole."""
    node = last_operator(function, inputs)
    placeholders = node.graph.find_nodes(op="placeholder")
    known = dict(zip(placeholders, inputs, strict=True))
    piece = piece_reading(node, placeholders[0], rows)
    if piece is None:
        return None
    whole = function(*inputs)
    if not piece.is_sum:
        whole = in_rows(whole, piece.rows, tuple(whole.shape[row] for row in piece.rows))
    torch.testing.assert_close(computed(piece, known), whole, check_dtype=not piece.is_sum)
    return piece.rows


TOKENS = torch.randn(12, 8)
BATCH = torch.randn(3, 4, 8)
INDEX = torch.randint(8, (3, 4, 1))

BY_ROWS: dict[str, tuple[Callable[..., Tensor], list[Tensor], Dims, Dims]] = {
    "beside a number of its own": (lambda x, t: aten.mul.Tensor(x, t), [BATCH, torch.tensor(2.0)], (-3, -2), (-3, -2)),
    "beside one row for all": (lambda x, w: aten.add.Tensor(x, w), [BATCH, torch.randn(8)], (-3, -2), (-3, -2)),
    "beside a number for each row": (
        lambda x, m: aten.sub.Tensor(x, m),
        [BATCH, torch.randn(3, 4, 1)],
        (-3, -2),
        (-3, -2),
    ),
    "beside a number for each sequence": (
        lambda x, m: aten.mul.Tensor(x, m),
        [BATCH, torch.randn(3, 1, 1)],
        (-3, -2),
        (-3, -2),
    ),
    "a choice": (lambda x, c: aten.where.self(c, x, x), [BATCH, torch.randn(3, 4, 1) > 0], (-3, -2), (-3, -2)),
    "largest of each row": (lambda x: aten.amax.default(x, [-1], True), [BATCH], (-3, -2), (-3, -2)),
    "largest, dimension gone": (lambda x: aten.amax.default(x, [-1]), [BATCH], (-3, -2), (-2, -1)),
    "sum of each row": (lambda x: aten.sum.dim_IntList(x, [1]), [BATCH.mT.contiguous()], (-3, -1), (-2, -1)),
    "one of each row": (lambda x, i: aten.gather.default(x, -1, i), [BATCH, INDEX], (-3, -2), (-3, -2)),
    "a part of each row": (lambda x: aten.slice.Tensor(x, 2, 1, 6), [BATCH], (-3, -2), (-3, -2)),
    "one column": (lambda x: aten.select.int(x, 1, 3), [TOKENS], (-2,), (-1,)),
    "padded": (lambda x: aten.constant_pad_nd.default(x, [1, 2], 0.5), [BATCH], (-3, -2), (-3, -2)),
    "put in place": (
        lambda x, s: aten.slice_scatter.default(x, s, 2, 0, 3),
        [BATCH, BATCH[..., :3]],
        (-3, -2),
        (-3, -2),
    ),
    "turned": (lambda x: aten.permute.default(x, [0, 2, 1]), [BATCH], (-3, -2), (-3, -1)),
    "rows turned, too": (lambda x: aten.permute.default(x, [2, 1, 0]), [BATCH], (-3, -2), (-1, -2)),
    "one list of rows": (lambda x: aten.view.default(x, [12, 8]), [BATCH], (-3, -2), (-2,)),
    "taken apart": (lambda x: aten.view.default(x, [3, 4, 2, 4]), [TOKENS], (-2,), (-4, -3)),
    "words first, one more dimension": (
        lambda x: aten.view.default(x, [3, 8, 1, 4]),
        [BATCH.mT.contiguous()],
        (-3, -1),
        (-4, -1),
    ),
    "times a matrix": (lambda x, w: aten.mm.default(x, w), [TOKENS, torch.randn(8, 5)], (-2,), (-2,)),
    "a matrix times": (lambda x, w: aten.mm.default(w, x), [TOKENS.t(), torch.randn(5, 8)], (-1,), (-1,)),
    "with a bias": (
        lambda x, w, b: aten.addmm.default(b, x, w),
        [TOKENS, torch.randn(8, 5), torch.randn(5)],
        (-2,),
        (-2,),
    ),
    "sum over all": (lambda x: aten.sum.default(x), [BATCH], (-3, -2), ()),
    "mean over all": (lambda x: aten.mean.default(x), [BATCH], (-3, -2), ()),
    "sum over rows": (lambda x: aten.sum.dim_IntList(x, [0], True), [TOKENS], (-2,), ()),
    "product over rows": (lambda x, y: aten.mm.default(x, y), [TOKENS.t(), torch.randn(12, 5)], (-1,), ()),
}


@pytest.mark.parametrize("case", BY_ROWS.values(), ids=BY_ROWS)
def test_chunks_put_together_are_the_whole(case: tuple[Callable[..., Tensor], list[Tensor], Dims, Dims]) -> None:
    function, inputs, rows, expected = case
    assert check(function, inputs, rows) == expected


WHOLE: dict[str, tuple[Callable[..., Tensor], list[Tensor], Dims]] = {
    "sums over one of two dimensions of rows": (lambda x: aten.sum.dim_IntList(x, [1]), [BATCH], (-3, -2)),
    "the largest of all rows": (lambda x: aten.amax.default(x, [0]), [TOKENS], (-2,)),
    "a running sum along rows": (lambda x: aten.cumsum.default(x, 0), [TOKENS], (-2,)),
    "some of the rows": (lambda x: aten.slice.Tensor(x, 1, 0, 3), [BATCH], (-3, -2)),
    "rows padded": (lambda x: aten.constant_pad_nd.default(x, [0, 0, 1, 0]), [TOKENS], (-2,)),
    "rows torn by a view": (lambda x: aten.view.default(x, [8, 12]), [TOKENS], (-2,)),
    "rows in another order than a view needs": (lambda x: aten.view.default(x, [12, 8]), [BATCH], (-2, -3)),
    "random": (lambda x: aten.bernoulli.p(x, 0.5), [TOKENS], (-2,)),
    "sorted": (lambda x: aten.sort.default(x, -1)[0], [TOKENS], (-2,)),
}


@pytest.mark.parametrize("case", WHOLE.values(), ids=WHOLE)
def test_what_is_not_by_rows_is_refused(case: tuple[Callable[..., Tensor], list[Tensor], Dims]) -> None:
    function, inputs, rows = case
    assert check(function, inputs, rows) is None


def test_one_place_in_each_row_of_a_constant_needs_no_constant() -> None:
    """The gradient of a gathered value: zeros of all words for each token, in every form that autograd writes."""
    index, value = torch.randint(8, (12, 1)), torch.randn(12, 1)
    ways: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda i, v: aten.scatter.value(aten.full.default([12, 8], 0.0), 1, i, -1.0),
        lambda i, v: aten.scatter.src(aten.full.default([12, 8], 0.0), 1, i, v),
        lambda i, v: aten.scatter_add.default(aten.full.default([12, 8], 0.0), 1, i, v),
        lambda i, v: aten.scatter_add.default(aten.full.default([12, 8], 2.0), 1, i, v),
    ]
    for way in ways:
        node = last_operator(way, [index, value])
        piece = piece_for(node, (-2,))
        assert piece is not None
        assert all(operand.node.op == "placeholder" for operand in piece.operands)
        known = dict(zip(node.graph.find_nodes(op="placeholder"), (index, value), strict=True))
        torch.testing.assert_close(computed(piece, known), way(index, value))


def test_several_places_in_a_row_are_scattered_as_they_are() -> None:
    index, value = torch.randint(8, (12, 3)), torch.randn(12, 3)
    node = last_operator(lambda i, v, z: aten.scatter_add.default(z, 1, i, v), [index, value, torch.zeros(12, 8)])
    piece = piece_for(node, (-2,))
    assert piece is not None and len(piece.operands) == 3


def test_short_sums_are_added_up_in_single_precision_and_gradients_of_weights_in_their_own() -> None:
    short = TOKENS.bfloat16()
    assert type_of_sum(last_operator(lambda x: aten.sum.default(x), [short])) == torch.float32
    assert type_of_sum(last_operator(lambda x: aten.mm.default(x.t(), x), [short])) == torch.bfloat16


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_views_carry_rows_or_are_refused(data: st.DataObject) -> None:
    """Random regroupings of 2*2*3*4 elements: where rows are carried, the chunks agree with the whole."""
    before = data.draw(st.permutations([2, 2, 3, 4]))
    sizes = list(before)
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(sizes) - 2))
        sizes[at : at + 2] = [sizes[at] * sizes[at + 1]]
    if data.draw(st.booleans()):
        sizes.insert(data.draw(st.integers(0, len(sizes))), 1)
    rows = [at - 4 for at in range(4) if data.draw(st.booleans())]
    if math.prod(before[row] for row in rows) == 12:
        check(lambda x: aten.view.default(x, sizes), [torch.arange(48.0).reshape(before)], tuple(rows))

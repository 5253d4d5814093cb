"""Operators by rows: for each, where its result has the rows, and what a chunk of the result is computed from.

    operator            the rows of the result                           a chunk
    elementwise         where the operands have them                     the same, of chunks
    along a dimension   where the operand has them, if not along them    the same, along another number
    views               where their sizes go                             a view of the rest
    a product a @ b     in rows where `a` has them, in columns as `b`    chunk @ b
    a sum over rows     none: a sum over the chunks                      the sum of the chunk's rows
    a product over rows none: a sum over the chunks                      chunk^T @ chunk

The table below says which rule an operator has (`rule.py`); one without a rule is not computed by rows.

Claim: the chunks, put together, are the result: bit by bit, but for sums over rows, which are added up in another
order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from memsched.inductor.rewrites.chunk_loss.along import Along, Padding, Reduction, Scatter, sum_over_rows
from memsched.inductor.rewrites.chunk_loss.elementwise import Constant, Copy, Elementwise
from memsched.inductor.rewrites.chunk_loss.products import Product, product_over_rows
from memsched.inductor.rewrites.chunk_loss.rows import Dims, Piece
from memsched.inductor.rewrites.chunk_loss.rule import Rule
from memsched.inductor.rewrites.chunk_loss.views import Permute, View

__all__ = ["piece_for", "piece_reading"]

_aten = torch.ops.aten
_prims = torch.ops.prims


def piece_reading(node: fx.Node, source: fx.Node, rows: Dims) -> Piece | None:
    """How `node` is computed by rows, given that its operand `source` has `rows`; None where it is not."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return None
    summed = _SUMS.get(node.target)
    piece = summed(node, source, rows) if summed else None
    if piece is None and (rule := _rule_of(node)) is not None:
        after = rule.rows_after(node, source, rows)
        piece = rule.piece(node, after) if after else None
    agrees = piece is not None and any(operand.node is source and operand.rows == rows for operand in piece.operands)
    return piece if agrees else None


def piece_for(node: fx.Node, rows: Dims) -> Piece | None:
    """How `node` is computed so that its result has `rows`; None where it is not."""
    rule = _rule_of(node) if isinstance(node.meta.get("val"), Tensor) else None
    return rule.piece(node, rows) if rule is not None else None


_COPIES = frozenset({_aten.clone.default, _aten.alias.default, _aten.expand.default, _aten.detach.default})
_CASTS = frozenset({_prims.convert_element_type.default, _aten.where.self})
_VIEWS = frozenset(
    {
        _aten.view.default,
        _aten._unsafe_view.default,
        _aten.reshape.default,
        _aten.unsqueeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.squeeze.default,
    }
)
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(_COPIES, Copy()),
    **dict.fromkeys(_CASTS, Elementwise()),
    **dict.fromkeys(_VIEWS, View()),
    **dict.fromkeys((_aten.permute.default, _aten.transpose.int, _aten.t.default), Permute()),
    **dict.fromkeys((_aten.mm.default, _aten.addmm.default), Product()),
    **dict.fromkeys(
        (
            _aten.gather.default,
            _aten.slice.Tensor,
            _aten.slice_scatter.default,
            _aten.cumsum.default,
            _aten._softmax.default,
            _aten._log_softmax.default,
        ),
        Along(),
    ),
    **dict.fromkeys(
        (
            _aten.sum.dim_IntList,
            _aten.mean.dim,
            _aten.amax.default,
            _aten.amin.default,
            _aten.argmax.default,
            _aten.argmin.default,
            _aten.any.dim,
            _aten.any.dims,
            _aten.all.dim,
            _aten.logsumexp.default,
            _aten.prod.dim_int,
            _aten.select.int,
        ),
        Reduction(),
    ),
    **dict.fromkeys((_aten.scatter.value, _aten.scatter.src, _aten.scatter_add.default), Scatter()),
    _aten.constant_pad_nd.default: Padding(),
    _aten.full.default: Constant(),
}
_SUMS: dict[Any, Callable[[fx.Node, fx.Node, Dims], Piece | None]] = {
    **dict.fromkeys((_aten.sum.default, _aten.sum.dim_IntList, _aten.mean.default, _aten.mean.dim), sum_over_rows),
    _aten.mm.default: product_over_rows,
}
_ELEMENTWISE = Elementwise()


def _rule_of(node: fx.Node) -> Rule | None:
    target = node.target
    if target in _RULES:
        return _RULES[target]
    tags = target.tags if isinstance(target, torch._ops.OpOverload) else ()
    is_elementwise = torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
    return _ELEMENTWISE if is_elementwise and len(node.target._schema.returns) == 1 else None  # type: ignore[union-attr]

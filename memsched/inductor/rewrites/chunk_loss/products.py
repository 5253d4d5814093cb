"""Matrix products: rows of one operand are rows of the result; over rows the chunks add up.

    logits = x @ w            a chunk: rows of x, all of w
    dw = x^T @ dlogits        a chunk: its part of dw

Claim: what the whole would be, with fewer rows in a product; sums over rows are added up in another order.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from memsched.inductor.rewrites.chunk_loss.rows import Dims, Operand, Piece, shape_of
from memsched.inductor.rewrites.chunk_loss.rule import Rule, operand_of, sizes_at

__all__ = ["Product", "is_product", "product_over_rows"]

_aten = torch.ops.aten


def is_product(node: fx.Node) -> bool:
    """Whether it is a matrix product."""
    return node.target in (_aten.mm.default, _aten.addmm.default)


class Product(Rule):
    """a @ b, or bias + a @ b."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        *_, a, b = node.args
        if source is a and rows == (-2,):
            return (-2,)
        return (-1,) if source is b and rows == (-1,) else ()

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        *before, a, b = node.args
        assert isinstance(a, fx.Node) and isinstance(b, fx.Node)
        bias = before[0] if before else None
        if rows not in ((-2,), (-1,)) or (isinstance(bias, fx.Node) and rows == (-1,)) or node.kwargs:
            return None
        sizes = sizes_at(node, rows)
        reads = [Operand(a, rows, sizes), Operand(b)] if rows == (-2,) else [Operand(a), Operand(b, rows, sizes)]
        added = operand_of(bias, rows, sizes) if isinstance(bias, fx.Node) else None

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            if rows == (-1,):
                return values[b] @ values[a].t()
            return torch.addmm(values[added.node], values[a], values[b]) if added else values[a] @ values[b]

        return Piece(rows, (*reads, *([added] if added else [])), compute)


def product_over_rows(node: fx.Node, source: fx.Node, rows: Dims) -> Piece | None:
    """The gradient of a weight: each chunk of rows adds its part."""
    a, b = node.args
    assert isinstance(a, fx.Node) and isinstance(b, fx.Node)
    if not ((source is a and rows == (-1,)) or (source is b and rows == (-2,))):
        return None
    many = (shape_of(a)[-1],)

    def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
        return values[a].t() @ values[b]

    return Piece((), (Operand(a, (-1,), many), Operand(b, (-2,), many)), compute)

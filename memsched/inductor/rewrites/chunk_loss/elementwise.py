"""Operators that compute each element of one element of each operand, copies and constants.

    logits [batch, length, words] - largest [batch, length, 1]        a chunk: [rows, words] - [rows, 1]

Claim: bit by bit what the whole would be.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from memsched.inductor.rewrites.chunk_loss.rows import Dims, Operand, Piece, shape_of
from memsched.inductor.rewrites.chunk_loss.rule import Rule, call_on, operands_of, rest_sizes, sizes_at

__all__ = ["Constant", "Copy", "Elementwise"]

_aten = torch.ops.aten


class Elementwise(Rule):
    """One element of each operand for one of the result; operands are broadcast."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        return rows

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        shape = shape_of(node)
        operands = operands_of(node.all_input_nodes, rows, sizes_at(node, rows))
        if operands is None:
            return None

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            aligned = {operand.node: _aligned(values[operand.node], operand, len(shape), rows) for operand in operands}
            result = self.result(node, aligned)
            return result.expand(count, *rest_sizes(shape, rows))

        return Piece(rows, operands, compute)

    def result(self, node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
        """The result in a chunk, or what is broadcast to it, given aligned operands."""
        return call_on(node, values)


class Copy(Elementwise):
    """What only copies or broadcasts."""

    def result(self, node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
        return values[node.all_input_nodes[0]]


def _aligned(value: Tensor, operand: Operand, dimensions: int, rows: Dims) -> Tensor:
    """`value` with as many dimensions as the chunk of a result of so many.

    A number in a tensor without dimensions stays one: with one dimension it would take part in the choice of the type.
    """
    if operand.rows:
        missing = dimensions - len(rows) - (value.dim() - 1)
        return value.reshape(value.shape[0], *([1] * missing), *value.shape[1:]) if missing else value
    if not value.dim():
        return value
    padded = (*([1] * (dimensions - value.dim())), *value.shape)
    return value.reshape(1, *rest_sizes(padded, rows))


class Constant(Rule):
    """A tensor of one number: it reads nothing, so it only answers backwards."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        return ()

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        rest = rest_sizes(shape_of(node), rows)
        _, value = node.args

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            return _aten.full.default((count, *rest), value, **node.kwargs)

        return Piece(rows, (), compute)

"""Rows of a tensor, and what a chunk of rows is computed from.

A loss is made of logits, one row for each token.  A tensor *has the rows* where some of its dimensions, in an order,
count the tokens; dimensions are negative numbers, which stay the same when a tensor is broadcast to more dimensions:

    logits [tokens, words]                rows (-2,)
    logits [batch, length, words]         rows (-3, -2)          the same rows, in the same order
    logits [batch, words, length]         rows (-3, -1)
    loss of each token [batch, length]    rows (-2, -1)

A dimension of size 1 never counts rows.  In a chunk, whatever the tensor looked like, it is [rows of the chunk, *rest],
with the other dimensions in their order.  So views that only rearrange rows cost nothing there, and every operator has
one form (`operators.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

__all__ = ["Compute", "Dims", "Operand", "Piece", "rest_of", "shape_of"]

Dims = tuple[int, ...]

Compute = Callable[[int, Mapping[fx.Node, Tensor]], Tensor]
"""From the rows of a chunk, how many and the operands as the piece asks for them, to the result in that chunk."""


@dataclass(frozen=True, slots=True)
class Operand:
    """What a piece reads of a node's result: the rows of its chunk, or all of it.

    rows: the dimensions that count rows, in their order; () for all of it.
    sizes: of those dimensions; where the node has size 1 there, or fewer dimensions, it is broadcast.
    """

    node: fx.Node
    rows: Dims = ()
    sizes: Dims = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """How the result of one node is computed for a chunk of rows.

    rows: the dimensions of the result that count rows; () where the result is the sum of what the chunks give.
    """

    rows: Dims
    operands: tuple[Operand, ...]
    compute: Compute

    @property
    def is_sum(self) -> bool:
        """Whether what the chunks give is to be added up."""
        return not self.rows


def shape_of(node: fx.Node) -> Dims:
    """The sizes of a node's result; () where that is no tensor."""
    value: Any = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def rest_of(dimensions: int, rows: Sequence[int]) -> Dims:
    """Of so many dimensions, those that do not count rows, in their order."""
    return tuple(at for at in range(-dimensions, 0) if at not in rows)

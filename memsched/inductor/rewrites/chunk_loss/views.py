"""Views: rows go where their sizes go.

    [batch, length, words] ──view──> [batch * length, words]          rows (-3, -2) become (-2,)
    [batch, length, words] ──permute──> [batch, words, length]        rows (-3, -2) become (-3, -1)

Claim: rows are only carried where whole groups of dimensions are rows, in their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import Tensor, fx

from memsched.inductor.rewrites.chunk_loss.rows import Dims, Operand, Piece, rest_of, shape_of
from memsched.inductor.rewrites.chunk_loss.rule import Rule, arguments_of, rest_sizes, sizes_at

__all__ = ["Permute", "View"]


class View(Rule):
    """Sizes are regrouped; rows stay rows where whole groups of them are."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        return _regrouped(shape_of(source), shape_of(node), rows)

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        source = node.all_input_nodes[0]
        own = _regrouped(shape_of(node), shape_of(source), rows)
        rest = rest_sizes(shape_of(node), rows)
        if not own or _regrouped(shape_of(source), shape_of(node), own) != rows:
            return None

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            return values[source].reshape(count, *rest)

        return Piece(rows, (Operand(source, own, sizes_at(source, own)),), compute)


def _regrouped(before: Dims, after: Dims, rows: Dims) -> Dims:
    """Where `rows` of a tensor of sizes `before` are when it is viewed with sizes `after`; () where they are torn."""
    found: dict[Dims, Dims] = dict(_groups(before, after))
    result: list[int] = []
    at = 0
    while at < len(rows):
        group = next((group for group in found if group[0] == rows[at]), None)
        if group is None or rows[at : at + len(group)] != group:
            return ()
        result.extend(found[group])
        at += len(group)
    return tuple(result)


def _groups(before: Dims, after: Dims) -> Iterable[tuple[Dims, Dims]]:
    """The least runs of dimensions with equal numbers of elements, without those of size 1."""
    left = [at for at in range(-len(before), 0) if before[at] != 1]
    right = [at for at in range(-len(after), 0) if after[at] != 1]
    one: list[int] = []
    other: list[int] = []
    while left or right or one or other:
        here = math.prod(before[at] for at in one), math.prod(after[at] for at in other)
        if one and other and here[0] == here[1]:
            yield tuple(one), tuple(other)
            one, other = [], []
        elif left and (not one or here[0] < here[1]):
            one.append(left.pop(0))
        elif right:
            other.append(right.pop(0))
        else:
            return


class Permute(Rule):
    """Dimensions in another order, rows among them."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        order = _order_of(node, len(shape_of(source)))
        return tuple(order.index(row) - len(order) for row in rows)

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        source = node.all_input_nodes[0]
        order = _order_of(node, len(shape_of(source)))
        own = tuple(order[row] for row in rows)
        rest = rest_of(len(order), own)
        places = [0, *(1 + rest.index(order[at]) for at in rest_of(len(order), rows))]

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            return values[source].permute(places)

        return Piece(rows, (Operand(source, own, sizes_at(source, own)),), compute)


def _order_of(node: fx.Node, dimensions: int) -> Dims:
    """For each dimension of the result, the one of the operand."""
    order = list(range(-dimensions, 0))
    given = arguments_of(node)
    if "dims" in given:
        return tuple(at if at < 0 else at - dimensions for at in given["dims"])
    one, other = given.get("dim0", 0), given.get("dim1", 1)
    order[one], order[other] = order[other], order[one]
    return tuple(order)

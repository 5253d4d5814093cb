"""Operators along dimensions: by rows where those are not among them, and sums where all rows are.

    largest word of each token     by rows          sum over all tokens     a sum over the chunks
    a word of each token           by rows          running sum of tokens   not by rows

Claim: bit by bit what the whole would be, but for sums over rows, which are added up in another order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, fx

from memsched.inductor.rewrites.chunk_loss.products import is_product
from memsched.inductor.rewrites.chunk_loss.rows import Dims, Operand, Piece, rest_of, shape_of
from memsched.inductor.rewrites.chunk_loss.rule import (
    Rule,
    arguments_of,
    call_on,
    dims_of,
    operand_of,
    operands_of,
    sizes_at,
    takes_list,
)

__all__ = ["Along", "Padding", "Reduction", "Scatter", "sum_over_rows", "type_of_sum"]

_aten = torch.ops.aten


class Along(Rule):
    """The operands have all of the result's dimensions: picking, scattering, slicing, running sums."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        return rows

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        dimensions = len(shape_of(node))
        along = dims_of(node, dimensions)
        operands = operands_of(node.all_input_nodes, rows, sizes_at(node, rows))
        whole = operands is None or any(not operand.rows for operand in operands)
        if whole or operands is None or set(along) & set(rows):
            return None

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            return call_on(node, values, dim=1 + rest_of(dimensions, rows).index(along[0]))

        return Piece(rows, operands, compute)


class Scatter(Along):
    """Values put in places; one in each row of a constant is chosen elementwise, which needs no constant in memory."""

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        given = arguments_of(node)
        base, index, shape = given["self"], given["index"], shape_of(node)
        (along,) = dims_of(node, len(shape))
        one_each = tuple(1 if at == along else shape[at] for at in range(-len(shape), 0))
        if base.target != _aten.full.default or shape_of(index) != one_each or along in rows:
            return super().piece(node, rows)
        value = given.get("src", given.get("value"))
        reads = [index, value] if isinstance(value, fx.Node) else [index]
        operands = operands_of(reads, rows, sizes_at(node, rows))
        if operands is None:
            return None
        place = 1 + rest_of(len(shape), rows).index(along)
        background, dtype = base.args[1], node.meta["val"].dtype
        adds = node.target is _aten.scatter_add.default and background != 0

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            where = values[index]
            sizes = [1] * where.dim()
            sizes[place] = shape[along]
            chosen = where == torch.arange(shape[along], device=where.device).view(sizes)
            put = values[value] if isinstance(value, fx.Node) else value
            return torch.where(chosen, put + background if adds else put, background).to(dtype)

        return Piece(rows, operands, compute)


class Reduction(Rule):
    """Some dimensions are reduced, or one is picked from."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        dimensions = len(shape_of(source))
        gone = dims_of(node, dimensions)
        if set(gone) & set(rows):
            return ()
        keeps = len(shape_of(node)) == dimensions
        return rows if keeps else tuple(row + sum(at > row for at in gone) for row in rows)

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        source = node.all_input_nodes[0]
        dimensions = len(shape_of(source))
        gone = dims_of(node, dimensions)
        before = tuple(at for at in range(-dimensions, 0) if at not in gone)
        keeps = len(shape_of(node)) == dimensions
        own = rows if keeps else tuple(before[row] for row in rows)
        operand = operand_of(source, own, sizes_at(node, rows))
        if set(gone) & set(own) or operand is None or not operand.rows or len(node.all_input_nodes) > 1:
            return None

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            places = [1 + rest_of(dimensions, own).index(at) for at in gone]
            return call_on(node, values, dim=places if takes_list(node) else places[0])

        return Piece(rows, (operand,), compute)


class Padding(Rule):
    """Constants around the other dimensions."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        return rows

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        source = node.all_input_nodes[0]
        given: list[int] = list(arguments_of(node)["pad"])
        pads = {-1 - at: given[2 * at : 2 * at + 2] for at in range(len(given) // 2)}
        operand = operand_of(source, rows, sizes_at(node, rows))
        if operand is None or not operand.rows or any(any(pads.get(row, ())) for row in rows):
            return None
        places = reversed(rest_of(len(shape_of(source)), rows))
        padding = [one for at in places for one in pads.get(at, [0, 0])]

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            return call_on(node, values, pad=padding)

        return Piece(rows, (operand,), compute)


def sum_over_rows(node: fx.Node, source: fx.Node, rows: Dims) -> Piece | None:
    """All rows are summed, in single precision at least; other dimensions, too, where they are named."""
    dimensions, result = len(shape_of(source)), shape_of(node)
    gone = dims_of(node, dimensions)
    if not set(rows) <= set(gone):
        return None
    places = [0, *(1 + rest_of(dimensions, rows).index(at) for at in gone if at not in rows)]
    exact = type_of_sum(node)
    is_mean = node.target in (_aten.mean.default, _aten.mean.dim)
    many = math.prod(shape_of(source)[at] for at in gone) if is_mean else 1

    def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
        total = values[source].sum(places, dtype=exact).reshape(result)
        return total / many if is_mean else total

    return Piece((), (Operand(source, rows, sizes_at(source, rows)),), compute)


def type_of_sum(node: fx.Node) -> torch.dtype:
    """The type in which the chunks of a sum are added up: single precision at least, but a weight's gradient's own."""
    dtype: torch.dtype = node.meta["val"].dtype
    is_short = dtype in (torch.float16, torch.bfloat16) and not is_product(node)
    return torch.float32 if is_short else dtype

"""Operators by rows: for each, where its result has the rows, and what a chunk of the result is computed from.

    operator            the rows of the result                           a chunk
    elementwise         where the operands have them                     the same, of chunks
    along a dimension   where the operand has them, if not along them    the same, along another number
    views               where their sizes go                             a view of the rest
    a product a @ b     in rows where `a` has them, in columns as `b`    chunk @ b
    a sum over rows     none: a sum over the chunks                      the sum of the chunk's rows
    a product over rows none: a sum over the chunks                      chunk^T @ chunk

Each rule answers twice: forwards (`rows_after`: an operand has these rows, where has the result them?), and backwards
(`piece`: the result shall have these rows, what is read?).  An operator without a rule is not computed by rows.

Claim: the chunks, put together, are the result: bit by bit, but for sums over rows, which are added up in another
order.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from memsched.inductor.rewrites.chunk_loss.rows import Dims, Operand, Piece, rest_of, shape_of

__all__ = ["is_product", "piece_for", "piece_reading", "type_of_sum"]

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


def is_product(node: fx.Node) -> bool:
    """Whether it is a matrix product."""
    return node.target in (_aten.mm.default, _aten.addmm.default)


def type_of_sum(node: fx.Node) -> torch.dtype:
    """The type in which the chunks of a sum are added up: single precision at least, but a weight's gradient's own."""
    dtype: torch.dtype = node.meta["val"].dtype
    is_short = dtype in (torch.float16, torch.bfloat16) and not is_product(node)
    return torch.float32 if is_short else dtype


class _Rule(abc.ABC):
    @abc.abstractmethod
    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        """The dimensions of the result that count rows where `source` has `rows`; () where none do."""

    @abc.abstractmethod
    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        """The piece whose result has `rows`."""


def _operand(node: fx.Node, rows: Dims, sizes: Dims) -> Operand | None:
    """What is read of `node`, aligned to the right with a result that has `rows`; None where sizes do not agree."""
    shape = shape_of(node)
    own = [shape[row] if -row <= len(shape) else 1 for row in rows]
    if all(size == 1 for size in own):
        return Operand(node)
    agree = all(size in (1, wanted) for size, wanted in zip(own, sizes, strict=True))
    return Operand(node, rows, sizes) if agree else None


def _operands(nodes: Iterable[fx.Node], rows: Dims, sizes: Dims) -> tuple[Operand, ...] | None:
    found = [_operand(node, rows, sizes) for node in nodes]
    return None if None in found else tuple(one for one in found if one is not None)


def _sizes(node: fx.Node, rows: Dims) -> Dims:
    shape = shape_of(node)
    return tuple(shape[row] for row in rows)


def _rest_sizes(shape: Dims, rows: Dims) -> Dims:
    return tuple(shape[at] for at in rest_of(len(shape), rows))


# ---- elementwise


class _Elementwise(_Rule):
    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        return rows

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        shape = shape_of(node)
        operands = _operands(node.all_input_nodes, rows, _sizes(node, rows))
        if operands is None:
            return None

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            aligned = {operand.node: _aligned(values[operand.node], operand, len(shape), rows) for operand in operands}
            result = self.result(node, aligned)
            return result.expand(count, *_rest_sizes(shape, rows))

        return Piece(rows, operands, compute)

    def result(self, node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
        return _call(node, values)


class _Copy(_Elementwise):
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
    return value.reshape(1, *_rest_sizes(padded, rows))


# ---- along dimensions that do not count rows


class _Along(_Rule):
    """The operands have all of the result's dimensions: picking, scattering, slicing, running sums."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        return rows

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        dimensions = len(shape_of(node))
        along = _dims(node, dimensions)
        operands = _operands(node.all_input_nodes, rows, _sizes(node, rows))
        whole = operands is None or any(not operand.rows for operand in operands)
        if whole or operands is None or set(along) & set(rows):
            return None

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            return _call(node, values, dim=1 + rest_of(dimensions, rows).index(along[0]))

        return Piece(rows, operands, compute)


class _Scatter(_Along):
    """Values put in places; one in each row of a constant is chosen elementwise, which needs no constant in memory."""

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        given = _arguments(node)
        base, index, shape = given["self"], given["index"], shape_of(node)
        (along,) = _dims(node, len(shape))
        one_each = tuple(1 if at == along else shape[at] for at in range(-len(shape), 0))
        if base.target != _aten.full.default or shape_of(index) != one_each or along in rows:
            return super().piece(node, rows)
        value = given.get("src", given.get("value"))
        reads = [index, value] if isinstance(value, fx.Node) else [index]
        operands = _operands(reads, rows, _sizes(node, rows))
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


class _Reduction(_Rule):
    """Some dimensions are reduced, or one is picked from."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        dimensions = len(shape_of(source))
        gone = _dims(node, dimensions)
        if set(gone) & set(rows):
            return ()
        keeps = len(shape_of(node)) == dimensions
        return rows if keeps else tuple(row + sum(at > row for at in gone) for row in rows)

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        source = node.all_input_nodes[0]
        dimensions = len(shape_of(source))
        gone = _dims(node, dimensions)
        before = tuple(at for at in range(-dimensions, 0) if at not in gone)
        keeps = len(shape_of(node)) == dimensions
        own = rows if keeps else tuple(before[row] for row in rows)
        operand = _operand(source, own, _sizes(node, rows))
        if set(gone) & set(own) or operand is None or not operand.rows or len(node.all_input_nodes) > 1:
            return None

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            places = [1 + rest_of(dimensions, own).index(at) for at in gone]
            return _call(node, values, dim=places if _takes_list(node) else places[0])

        return Piece(rows, (operand,), compute)


def _sum_over_rows(node: fx.Node, source: fx.Node, rows: Dims) -> Piece | None:
    """All rows are summed, in single precision at least; other dimensions, too, where they are named."""
    dimensions, result = len(shape_of(source)), shape_of(node)
    gone = _dims(node, dimensions)
    if not set(rows) <= set(gone):
        return None
    places = [0, *(1 + rest_of(dimensions, rows).index(at) for at in gone if at not in rows)]
    exact = type_of_sum(node)
    is_mean = node.target in (_aten.mean.default, _aten.mean.dim)
    many = math.prod(shape_of(source)[at] for at in gone) if is_mean else 1

    def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
        total = values[source].sum(places, dtype=exact).reshape(result)
        return total / many if is_mean else total

    return Piece((), (Operand(source, rows, _sizes(source, rows)),), compute)


def _dims(node: fx.Node, dimensions: int) -> Dims:
    """The dimensions that an operator names, all of them where it names none; negative."""
    given = _arguments(node).get("dim")
    many = range(dimensions) if given in (None, []) else given if isinstance(given, Sequence) else [given]
    return tuple(at if at < 0 else at - dimensions for at in many)


def _takes_list(node: fx.Node) -> bool:
    kinds = {argument.name: str(argument.type) for argument in node.target._schema.arguments}  # type: ignore[union-attr]
    return "List" in kinds["dim"]


class _Padding(_Rule):
    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        return rows

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        source = node.all_input_nodes[0]
        given: list[int] = list(_arguments(node)["pad"])
        pads = {-1 - at: given[2 * at : 2 * at + 2] for at in range(len(given) // 2)}
        operand = _operand(source, rows, _sizes(node, rows))
        if operand is None or not operand.rows or any(any(pads.get(row, ())) for row in rows):
            return None
        places = reversed(rest_of(len(shape_of(source)), rows))
        padding = [one for at in places for one in pads.get(at, [0, 0])]

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            return _call(node, values, pad=padding)

        return Piece(rows, (operand,), compute)


# ---- views


class _View(_Rule):
    """Sizes are regrouped; rows stay rows where whole groups of them are."""

    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        return _regrouped(shape_of(source), shape_of(node), rows)

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        source = node.all_input_nodes[0]
        own = _regrouped(shape_of(node), shape_of(source), rows)
        rest = _rest_sizes(shape_of(node), rows)
        if not own or _regrouped(shape_of(source), shape_of(node), own) != rows:
            return None

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            return values[source].reshape(count, *rest)

        return Piece(rows, (Operand(source, own, _sizes(source, own)),), compute)


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


class _Permute(_Rule):
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

        return Piece(rows, (Operand(source, own, _sizes(source, own)),), compute)


def _order_of(node: fx.Node, dimensions: int) -> Dims:
    """For each dimension of the result, the one of the operand."""
    order = list(range(-dimensions, 0))
    given = _arguments(node)
    if "dims" in given:
        return tuple(at if at < 0 else at - dimensions for at in given["dims"])
    one, other = given.get("dim0", 0), given.get("dim1", 1)
    order[one], order[other] = order[other], order[one]
    return tuple(order)


# ---- products


class _Product(_Rule):
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
        sizes = _sizes(node, rows)
        reads = [Operand(a, rows, sizes), Operand(b)] if rows == (-2,) else [Operand(a), Operand(b, rows, sizes)]
        added = _operand(bias, rows, sizes) if isinstance(bias, fx.Node) else None

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            if rows == (-1,):
                return values[b] @ values[a].t()
            return torch.addmm(values[added.node], values[a], values[b]) if added else values[a] @ values[b]

        return Piece(rows, (*reads, *([added] if added else [])), compute)


def _product_over_rows(node: fx.Node, source: fx.Node, rows: Dims) -> Piece | None:
    """The gradient of a weight: each chunk of rows adds its part."""
    a, b = node.args
    assert isinstance(a, fx.Node) and isinstance(b, fx.Node)
    if not ((source is a and rows == (-1,)) or (source is b and rows == (-2,))):
        return None
    many = (shape_of(a)[-1],)

    def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
        return values[a].t() @ values[b]

    return Piece((), (Operand(a, (-1,), many), Operand(b, (-2,), many)), compute)


class _Constant(_Rule):
    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        return ()

    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        rest = _rest_sizes(shape_of(node), rows)
        _, value = node.args

        def compute(count: int, values: Mapping[fx.Node, Tensor]) -> Tensor:
            return _aten.full.default((count, *rest), value, **node.kwargs)

        return Piece(rows, (), compute)


# ---- which rule


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a node by the names of its operator."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _call(node: fx.Node, values: Mapping[fx.Node, Tensor], **changed: Any) -> Tensor:
    """What the node computes of `values`, with some arguments changed."""
    target: Any = node.target
    given = _arguments(node) | changed
    at_place = [argument.name for argument in target._schema.arguments if not argument.kwarg_only]
    known = dict(fx.node.map_arg(given, values.__getitem__))
    defaults = {argument.name: argument.default_value for argument in target._schema.arguments}
    last = max((at for at, name in enumerate(at_place) if name in known), default=-1)
    args = [known.pop(name, defaults[name]) for name in at_place[: last + 1]]
    result = target(*args, **known)
    assert isinstance(result, Tensor)
    return result


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
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(_COPIES, _Copy()),
    **dict.fromkeys(_CASTS, _Elementwise()),
    **dict.fromkeys(_VIEWS, _View()),
    **dict.fromkeys((_aten.permute.default, _aten.transpose.int, _aten.t.default), _Permute()),
    **dict.fromkeys((_aten.mm.default, _aten.addmm.default), _Product()),
    **dict.fromkeys(
        (
            _aten.gather.default,
            _aten.slice.Tensor,
            _aten.slice_scatter.default,
            _aten.cumsum.default,
            _aten._softmax.default,
            _aten._log_softmax.default,
        ),
        _Along(),
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
        _Reduction(),
    ),
    **dict.fromkeys((_aten.scatter.value, _aten.scatter.src, _aten.scatter_add.default), _Scatter()),
    _aten.constant_pad_nd.default: _Padding(),
    _aten.full.default: _Constant(),
}
_SUMS: dict[Any, Callable[[fx.Node, fx.Node, Dims], Piece | None]] = {
    **dict.fromkeys((_aten.sum.default, _aten.sum.dim_IntList, _aten.mean.default, _aten.mean.dim), _sum_over_rows),
    _aten.mm.default: _product_over_rows,
}
_ELEMENTWISE = _Elementwise()


def _rule_of(node: fx.Node) -> _Rule | None:
    target = node.target
    if target in _RULES:
        return _RULES[target]
    tags = target.tags if isinstance(target, torch._ops.OpOverload) else ()
    is_elementwise = torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
    return _ELEMENTWISE if is_elementwise and len(node.target._schema.returns) == 1 else None  # type: ignore[union-attr]

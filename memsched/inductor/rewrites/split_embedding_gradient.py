"""The gradient of an embedding in half precision is summed up in columns, not as a whole table of float32.

Each token adds a row to the table.  Many tokens may share a row, so the sums are made in float32 and rounded once
(`embedding_dense_backward`, torch/_decomp/decompositions.py).  At the end of the backward, where most gradients are
alive, that is three times the gradient:

    rows ──> table of float32, words x width ──> gradient in bfloat16          2 + 1 of it
    rows, columns 0..w ──> words x w ──> gradient[:, 0..w]                     1 + 2/16 of it: sixteen parts, each
    rows, columns w..  ──> words x w ──> gradient[:, w..]                      gone before the next begins

The columns are added to the gradient of a tied head where that lies.

Claim: an element is the sum of the same numbers in the same order, so every bit is the same where stock's order of
sums is fixed.  (Where Inductor has made one `addmm` of the head's gradient and the sum, the product is rounded before
it is added, as it is in eager.)  It is done where the estimated peak falls by it, since it takes more kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from memsched.inductor.estimate import estimated_peak
from memsched.inductor.rewrites.nodes import bytes_of, call_with_value, is_elementwise, is_static, is_view

__all__ = ["split_embedding_gradients"]

aten, prims = torch.ops.aten, torch.ops.prims

_SCATTERS = {
    aten._unsafe_masked_index_put_accumulate.default: 3,
    aten._unsafe_index_put.default: 2,
    aten.index_put.default: 2,
}
"""Operators that add rows to a table, with the place of the rows among their arguments."""

_PARTS = 16
"""More than eight: those Inductor would put together in one kernel, which reads all of them."""

_ALIGNED = 8
"""Columns of a part are a multiple of it where the table is wide enough."""


def split_embedding_gradients(graph: fx.Graph) -> list[fx.Node]:
    """Replace tables that are rounded to half precision by their columns, put together; returns the first of each.

    graph: of ATen operators.
    """
    if not any(map(_is_rounded_table, graph.nodes)):
        return []
    trial = fx.Graph()
    trial.output(trial.graph_copy(graph, {}))
    _split(trial)
    if estimated_peak(trial) >= estimated_peak(graph):
        return []
    return _split(graph)


def _split(graph: fx.Graph) -> list[fx.Node]:
    made = [_in_columns(graph, node) for node in list(graph.nodes) if _is_rounded_table(node)]
    graph.eliminate_dead_code()
    return made


def _is_rounded_table(node: fx.Node) -> bool:
    """Whether it rounds a table of zeros, to which rows were added and which nobody else reads."""
    if node.target is not prims.convert_element_type.default or not is_static(node) or not node.users:
        return False
    table = node.args[0]
    if not isinstance(table, fx.Node) or table.target not in _SCATTERS or len(table.users) != 1:
        return False
    zeros, rows = table.args[0], table.args[_SCATTERS[table.target]]
    if not (_is_zero(zeros) and isinstance(rows, fx.Node) and is_static(rows) and _accumulates(table)):
        return False
    shape, picked = _shape(table), table.args[_SCATTERS[table.target] - 1]
    by_word = len(shape) == 2 and len(picked) == 1 and _shape(rows)[-1:] == shape[-1:]  # type: ignore[arg-type]
    return by_word and shape[-1] >= _PARTS and bytes_of(node) < bytes_of(table)


def _is_zero(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is aten.full.default and node.args[1] == 0


def _accumulates(table: fx.Node) -> bool:
    if table.target is aten._unsafe_masked_index_put_accumulate.default:
        return True
    return bool(table.args[3] if len(table.args) > 3 else table.kwargs.get("accumulate", False))


def _in_columns(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Make what `node` rounds by columns, and add them to what it is added to, where that dies; the first columns."""
    table, total = node.args[0], _sum_of(node)
    assert isinstance(table, fx.Node)
    whole = total or node
    with graph.inserting_before(whole), node.meta["val"].fake_mode:
        bounds = list(_bounds(node.meta["val"].shape[-1]))
        parts = [_columns(graph, node, table, start, stop) for start, stop in bounds]
        if total is None:
            made = call_with_value(graph, aten.cat.default, (parts, -1))
        else:
            made = _added(graph, _other_term(graph, total, node), zip(parts, bounds, strict=True))
    whole.replace_all_uses_with(made)
    return parts[0]


def _sum_of(node: fx.Node) -> fx.Node | None:
    """The sum of `node` and a result that nobody else reads, as the gradient of a tied head is; None for none."""
    (reader, *others) = node.users
    if others or reader.kwargs or _shape(reader) != _shape(node) or not _of_one_type(reader, node):
        return None
    if reader.target is aten.addmm.default and reader.args[0] is node:
        return reader
    if reader.target is not aten.add.Tensor:
        return None
    (other,) = set(reader.args) - {node} or {None}
    if not isinstance(other, fx.Node) or other.op != "call_function" or is_view(other) or len(other.users) > 1:
        return None
    same = _shape(other) == _shape(node) and _of_one_type(other, node) and other.meta["val"].is_contiguous()
    return reader if same else None


def _of_one_type(first: fx.Node, second: fx.Node) -> bool:
    return bool(first.meta["val"].dtype == second.meta["val"].dtype)


def _other_term(graph: fx.Graph, total: fx.Node, node: fx.Node) -> fx.Node:
    """What `node` is added to in `total`; the product of an `addmm` is made here, and rounded as the table is."""
    if total.target is aten.addmm.default:
        return call_with_value(graph, aten.mm.default, total.args[1:])
    (other,) = set(total.args) - {node}
    assert isinstance(other, fx.Node)
    return other


def _added(graph: fx.Graph, to: fx.Node, parts: Iterable[tuple[fx.Node, tuple[int, int]]]) -> fx.Node:
    """`to` with each part added to its columns: Inductor does it in the memory of `to`."""
    for part, (start, stop) in parts:
        columns = call_with_value(graph, aten.slice.Tensor, (to, -1, start, stop))
        total = call_with_value(graph, aten.add.Tensor, (columns, part))
        to = call_with_value(graph, aten.slice_scatter.default, (to, total, -1, start, stop))
    return to


def _bounds(width: int) -> Iterator[tuple[int, int]]:
    """First column and the one behind the last, of each part."""
    columns = -(-width // _PARTS)
    if width >= _PARTS * _ALIGNED:
        columns = -(-columns // _ALIGNED) * _ALIGNED
    for start in range(0, width, columns):
        yield start, min(start + columns, width)


def _columns(graph: fx.Graph, node: fx.Node, table: fx.Node, start: int, stop: int) -> fx.Node:
    """Columns of `table`, rounded as `node` does it."""
    at = _SCATTERS[table.target]
    zeros, rows = table.args[0], table.args[at]
    assert isinstance(zeros, fx.Node) and isinstance(rows, fx.Node)
    words = zeros.meta["val"].shape[0]
    part = call_with_value(graph, aten.full.default, ([words, stop - start], *zeros.args[1:]), zeros.kwargs)
    some = _columns_of_rows(graph, rows, start, stop)
    arguments = (part, *table.args[1:at], some, *table.args[at + 1 :])
    added = call_with_value(graph, table.target, arguments, table.kwargs)
    return call_with_value(graph, node.target, (added, *node.args[1:]), node.kwargs)


def _columns_of_rows(graph: fx.Graph, rows: fx.Node, start: int, stop: int) -> fx.Node:
    """Columns of `rows`: of what they are computed from, so that nothing wide is computed for all of them."""
    value: Tensor = rows.meta["val"]
    if not is_elementwise(rows) or len(rows.users) > 1:
        return call_with_value(graph, aten.slice.Tensor, (rows, -1, start, stop))
    arguments = [
        _columns_of_rows(graph, one, start, stop)
        if isinstance(one, fx.Node) and _shape(one)[-1:] == value.shape[-1:]
        else one
        for one in rows.args
    ]
    return call_with_value(graph, rows.target, tuple(arguments), rows.kwargs)


def _shape(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()

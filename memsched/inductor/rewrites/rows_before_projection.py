"""Rows are picked and put in line before a projection, not behind it.

A language model shifts its logits by one token against the targets, or reads the last token's alone:

    x ──> linear ──> logits ──[:, :-1]──> cross entropy        logits, their slice as a copy, and in the backward the
                                                               gradient of the slice padded to that of all logits
    x ──[:, :-1]──> linear ──> cross entropy                   a copy of x instead

Each row of a projection depends on one row of x; so does what is computed from it element by element, or along the row
(`log_softmax`).  So a slice that leaves the last dimension whole goes before the projection, where a row is as long as
the width and not as the vocabulary.  And so does what makes one list of all rows (`logits.float().view(-1, words)`):
Inductor's chunker of the loss looks through neither a slice nor a view that takes the rows apart.

This runs on the graph that Dynamo traced, in torch's own functions: one change there, and autograd derives both halves.

Claim: the same numbers, but for the order of sums inside of a product with fewer rows.
"""

from __future__ import annotations

import operator
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

__all__ = ["rows_before_projection"]

_LINEAR = (torch._C._nn.linear, functional.linear)
_METHODS = frozenset({"float", "half", "bfloat16", "double", "to", "contiguous", "clone", "tanh", "neg", "mul", "div"})
"""Methods that compute each element from one element, given numbers besides."""
_FUNCTIONS = frozenset(
    {operator.mul, operator.truediv, operator.neg, torch.mul, torch.div, torch.neg, torch.tanh, torch.clone}
)
_ALONG_ROWS = frozenset(
    {"softmax", "log_softmax", torch.softmax, torch.log_softmax, functional.softmax, functional.log_softmax}
)
_FLATTENING = frozenset({"view", "reshape", "flatten", torch.reshape, torch.flatten})


def rows_before_projection(graph: fx.Graph) -> list[fx.Node]:
    """Move what picks or flattens rows; the nodes that do so now.

    graph: of torch's functions, as Dynamo traces it, each node with its `example_value`.
    """
    moved = []
    for node in list(graph.nodes):
        value = _value(node.args[0]) if node.args else None
        if value is None:
            continue
        picks = node.target is operator.getitem and _picks_rows(node, value)
        flattens = node.target in _FLATTENING and _flattens_rows(node, value)
        chain = _from_projection(node) if picks or flattens else []
        if not chain or (picks and not _pays(chain[0], node.args[1])):
            continue
        first = _picked(graph, chain[0], node.args[1]) if picks else _flattened(graph, chain[0])
        _move(graph, node, chain, first)
        moved.append(first)
    return moved


def _picked(graph: fx.Graph, projection: fx.Node, index: Any) -> fx.Node:
    """The rows at `index` of what the projection reads."""
    with graph.inserting_before(projection):
        return graph.call_function(operator.getitem, (projection.args[0], index))


def _flattened(graph: fx.Graph, projection: fx.Node) -> fx.Node:
    """All rows of what the projection reads, as one list."""
    source = projection.args[0]
    assert isinstance(source, fx.Node)
    with graph.inserting_before(projection):
        return graph.call_method("reshape", (source, -1, source.meta["example_value"].shape[-1]))


def _move(graph: fx.Graph, last: fx.Node, chain: list[fx.Node], first: fx.Node) -> None:
    """Let the projection, first of `chain`, read `first`; then all of `chain` has the rows that `last` was to give."""
    source = first.args[0]
    assert isinstance(source, fx.Node)
    index = last.args[1] if last.target is operator.getitem else None
    first.meta = {**chain[0].meta, "example_value": source.meta["example_value"]}
    chain[0].update_arg(0, first)
    with torch.no_grad():
        for node in (first, *chain):
            value = node.meta["example_value"]
            node.meta["example_value"] = value.reshape(-1, value.shape[-1]) if index is None else value[index]
    last.replace_all_uses_with(chain[-1])
    graph.erase_node(last)


def _from_projection(last: fx.Node) -> list[fx.Node]:
    """The projection that `last` reads from, and what is computed by rows in between; [] if others read that, too."""
    chain: list[fx.Node] = []
    node = last.args[0]
    while isinstance(node, fx.Node) and len(node.users) == 1 and (value := _value(node)) is not None:
        chain.insert(0, node)
        if node.op == "call_function" and node.target in _LINEAR:
            source = _value(node.args[0])
            known = source is not None and source.dim() == value.dim() and type(source.shape[-1]) is int
            return chain if known else []
        if not _is_by_rows(node):
            return []
        node = node.args[0]
    return []


def _value(node: object) -> Tensor | None:
    """The fake tensor of a node; None where there is none, or it is a tensor of another kind, as DTensor's."""
    value = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return value if type(value) in (FakeTensor, Tensor) else None


# ---- what picks rows


def _picks_rows(node: fx.Node, whole: Tensor) -> bool:
    """Whether fewer rows are picked, by slices and numbers; of a size that is a symbol it is believed to be fewer."""
    value = _value(node)
    if value is None or not _keeps_last(node.args[1], whole.dim()):
        return False
    return not _are_known(value, whole) or value.numel() < whole.numel()


def _pays(projection: fx.Node, index: Any) -> bool:
    """Whether the rows to be copied are no more than what the projection gives: not where few words are read from many.

    Of a number of rows that is a symbol their lengths decide.
    """
    source, whole = _value(projection.args[0]), _value(projection)
    assert source is not None and whole is not None
    with torch.no_grad():
        rows = source[index]
    if _are_known(rows, whole):
        return bool(rows.numel() <= whole.numel())
    return bool(source.shape[-1] <= whole.shape[-1])


def _are_known(*values: Tensor) -> bool:
    """Whether no size is a symbol: a question about one would guard the compiled code."""
    return all(isinstance(size, int) for value in values for size in value.shape)


def _keeps_last(index: Any, dimensions: int) -> bool:
    """Whether `index` is made of slices and numbers, leaves the last dimension whole, and at least two dimensions."""
    parts = index if isinstance(index, tuple) else (index,)
    if not all(_is_plain(part) for part in parts):
        return False
    named = sum(not isinstance(part, EllipsisType) for part in parts)
    numbers = sum(isinstance(part, int) for part in parts)
    reaches_last = named == dimensions or (Ellipsis in parts and parts[-1] is not Ellipsis)
    return dimensions - numbers >= 2 and (not reaches_last or parts[-1] == slice(None))


def _is_plain(part: Any) -> bool:
    if isinstance(part, slice):
        return all(end is None or type(end) is int for end in (part.start, part.stop, part.step))
    return part is Ellipsis or type(part) is int


# ---- what leaves rows rows


def _flattens_rows(node: fx.Node, whole: Tensor) -> bool:
    """Whether all rows become one list; a length of rows that is a symbol is left alone."""
    value = _value(node)
    if value is None or value.dim() != 2 or whole.dim() <= 2:
        return False
    lengths = (value.shape[-1], whole.shape[-1])
    return all(type(length) is int for length in lengths) and lengths[0] == lengths[1]


def _is_by_rows(node: fx.Node) -> bool:
    """Whether each row of the result depends on that row of the first input alone, and nothing else is a tensor."""
    if len(node.all_input_nodes) != 1 or not isinstance(node.args[0], fx.Node) or "memory_format" in node.kwargs:
        return False
    if node.target in _ALONG_ROWS:
        return bool((node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")) == -1)
    return node.target in (_METHODS if node.op == "call_method" else _FUNCTIONS)

"""Only the rows of a projection that somebody reads are computed.

A language model shifts its logits by one token against the targets, or reads the last token's alone:

    x ──> linear ──> logits ──[:, :-1]──> cross entropy        logits, their slice as a copy, and in the backward the
                                                               gradient of the slice padded to that of all logits
    x ──[:, :-1]──> linear ──> cross entropy                   a copy of x instead

Each row of a projection, and of what is computed from it element by element, depends on one row of x.  So a slice that
leaves the last dimension whole goes before the projection, where a row is as long as the width and not as the
vocabulary.  Only then can the loss be computed in chunks: Inductor's chunker does not look through a slice.

This runs on the graph that Dynamo traced, in torch's own functions: one change there, and autograd derives both halves.

Claim: the same numbers, but for the order of sums inside of a product with fewer rows.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["slice_before_projection"]

_LINEAR = (torch._C._nn.linear, torch.nn.functional.linear)
_METHODS = frozenset({"float", "half", "bfloat16", "double", "to", "contiguous", "clone", "tanh", "neg", "mul", "div"})
"""Methods that compute each element from one element, given tensors of one size or numbers only."""
_FUNCTIONS = frozenset(
    {operator.mul, operator.truediv, operator.neg, torch.mul, torch.div, torch.neg, torch.tanh, torch.clone}
)


def slice_before_projection(graph: fx.Graph) -> list[fx.Node]:
    """Move such slices; the new slices.

    graph: of torch's functions, as Dynamo traces it, each node with its `example_value`.
    """
    moved = []
    for node in list(graph.find_nodes(op="call_function", target=operator.getitem)):
        chain = _from_projection(node)
        if chain:
            moved.append(_move(graph, node, chain))
    return moved


def _from_projection(piece: fx.Node) -> list[fx.Node]:
    """The projection that `piece` is a slice of, and what is computed from it before; empty where nothing may move."""
    sliced, index = piece.args
    value = _value(sliced)
    if value is None or not _keeps_last(index, value.dim()) or not _is_smaller(piece, value):
        return []
    chain: list[fx.Node] = []
    node = sliced
    while isinstance(node, fx.Node) and len(node.users) == 1 and _value(node) is not None:
        chain.insert(0, node)
        if node.op == "call_function" and node.target in _LINEAR:
            source = _value(node.args[0])
            return chain if source is not None and source.dim() == value.dim() else []
        if not _is_elementwise(node):
            return []
        node = node.args[0]
    return []


def _move(graph: fx.Graph, piece: fx.Node, chain: list[fx.Node]) -> fx.Node:
    projection = chain[0]
    index = piece.args[1]
    source = projection.args[0]
    assert isinstance(source, fx.Node)
    with graph.inserting_before(projection):
        first = graph.call_function(operator.getitem, (source, index))
    first.meta = {**projection.meta, "example_value": source.meta["example_value"]}
    projection.update_arg(0, first)
    with torch.no_grad():
        for node in (first, *chain):
            node.meta["example_value"] = node.meta["example_value"][index]
    piece.replace_all_uses_with(chain[-1])
    graph.erase_node(piece)
    return first


def _value(node: object) -> Tensor | None:
    """The fake tensor of a node; None where there is none, or it is a tensor of another kind, as DTensor's."""
    value = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return value if type(value) in (FakeTensor, Tensor) else None


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


def _is_smaller(piece: fx.Node, whole: Tensor) -> bool:
    """Whether the slice leaves something out; believed where a size is a symbol, since asking would guard."""
    value = _value(piece)
    if value is None:
        return False
    sizes = (*value.shape, *whole.shape)
    return not all(isinstance(size, int) for size in sizes) or value.numel() < whole.numel()


def _is_elementwise(node: fx.Node) -> bool:
    """Whether each element of the result depends on that of the first input alone, and nothing else is a tensor."""
    known = node.target in _METHODS if node.op == "call_method" else node.target in _FUNCTIONS
    return known and isinstance(node.args[0], fx.Node) and not any(_others(node))


def _others(node: fx.Node) -> Iterator[fx.Node]:
    """The inputs that are nodes, but for the first."""
    yield from (one for one in (*node.args[1:], *node.kwargs.values()) if isinstance(one, fx.Node))

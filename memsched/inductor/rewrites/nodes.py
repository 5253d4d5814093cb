"""What the rules ask of a node of a traced graph: a view, elementwise, how large; and new nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

__all__ = ["bytes_of", "call_with_value", "is_elementwise", "is_static", "is_view", "storage_of"]


def is_view(node: fx.Node) -> bool:
    """Whether the result shares the memory of the first input."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target.is_view


def is_elementwise(node: fx.Node) -> bool:
    """Whether each element of the result is made of one element of each input; casts are."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not isinstance(node.meta.get("val"), torch.Tensor):
        return False
    if target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags:
        return False
    return target is torch.ops.aten._to_copy.default or torch.Tag.pointwise in target.tags


def storage_of(node: fx.Node) -> fx.Node:
    """The node whose memory `node` is a view of."""
    while is_view(node):
        node = node.all_input_nodes[0]
    return node


def is_static(node: fx.Node) -> bool:
    """Whether the shape is known: a question about a symbolic one would guard the compiled code."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and all(isinstance(size, int) for size in value.shape)


def bytes_of(node: fx.Node) -> int:
    """Bytes of the elements of a tensor; a symbolic size counts as its hint, one without a hint as 0."""
    value: torch.Tensor = node.meta["val"]
    size: int | torch.SymInt = value.numel()
    return (size if isinstance(size, int) else int(size.node.hint or 0)) * int(value.element_size())


def call_with_value(
    graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> fx.Node:
    """A new node with its value, computed on those of what it reads; inside of their fake mode."""
    node = graph.call_function(target, args, dict(kwargs or {}))
    values = fx.node.map_arg((node.args, node.kwargs), lambda one: one.meta["val"])
    node.meta["val"] = target(*values[0], **values[1])
    return node

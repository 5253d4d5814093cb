"""FLOPs of a traced graph: products, convolutions and attention, as PyTorch's own counter counts them.

A multiplication and an addition are two.  Subgraphs count once for each call.  An operator whose formula fails counts
as 0: this is a price for choosing, not a measurement.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from memsched.inductor.sizes import elements_of

__all__ = ["flops_of"]


def flops_of(module: fx.GraphModule) -> int:
    """FLOPs of one call of `module`, from the shapes in the `meta` of its nodes."""
    total = 0
    for node in module.graph.nodes:
        if node.op == "call_function":
            total += _flops_of_node(node)
            if node.target is torch.ops.higher_order.invoke_subgraph and isinstance(node.args[0], fx.Node):
                inner = getattr(module, str(node.args[0].target), None)
                total += flops_of(inner) if isinstance(inner, fx.GraphModule) else 0
    return total


def _flops_of_node(node: fx.Node) -> int:
    formula = flop_registry.get(getattr(node.target, "overloadpacket", None))
    if formula is None:
        return 0

    try:
        arguments = tree_map_only(fx.Node, _shape_of, node.args)
        keywords = tree_map_only(fx.Node, _shape_of, dict(node.kwargs))
        return int(formula(*arguments, **keywords, out_val=_shape_of(node)))
    except Exception:
        return 0


def _shape_of(node: fx.Node) -> Any:
    """What the formulas take in place of tensors: shapes in numbers, since a question about a size would guard."""

    def shape(value: torch.Tensor) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else elements_of(size) for size in value.shape)

    return tree_map_only(torch.Tensor, shape, node.meta.get("val"))

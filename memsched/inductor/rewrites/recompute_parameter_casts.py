"""What is made of parameters alone is made again in the backward: their casts, views and dequantized copies.

Under autocast, over frozen or quantized weights, a product reads a copy of a parameter, and so does its gradient.
Stock's partitioner never recomputes a tensor that the backward reads as a whole, so it saves the copies: the weights of
the whole model a second time, from the forward to the end of the backward.

    w ──cast──> w' ──> product                   stock saves w', the cast of every layer
                 └──── gradient                  here: w ──cast──> w' ──> gradient, and w is there anyway

Only views, casts and elementwise operators over parameters and over results of such operators are made again, so a
recomputed copy costs its bytes once more in traffic.  A result of another operator (a norm, a product of two weights)
is left to the partitioner, and what is made of it only follows where it is at most a quarter of the size.

Claims: no operator over activations is tagged.  No parameter that the graph changes is read again.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from memsched.inductor.rewrites.nodes import is_elementwise, is_view
from memsched.inductor.rewrites.parameters import parameters_of
from memsched.inductor.rewrites.traversal import inputs_first

__all__ = ["recompute_parameter_casts"]

_SMALL = 4
"""An operand that is not recomputed may be saved instead if it is this many times smaller than what is made of it."""


def recompute_parameter_casts(graph: fx.Graph) -> list[fx.Node]:
    """Tag the casts and elementwise results of parameters to be recomputed, and the views of such; returns them.

    graph: forward and backward before they are cut apart, its parameters noted; nodes with a tag keep it.  Views of
        the parameters themselves have no bytes and get no tag.
    """
    from_parameters = set(parameters_of(graph))
    repeatable = set(from_parameters)
    tagged: dict[fx.Node, None] = {}
    for node in inputs_first(graph):
        sources = node.all_input_nodes
        if node.op != "call_function" or not sources or not from_parameters.issuperset(sources):
            continue
        from_parameters.add(node)
        if "recompute" in node.meta or not (is_view(node) or is_elementwise(node)) or not _may_follow(node, repeatable):
            continue
        repeatable.add(node)
        if not is_view(node) or any(source in tagged for source in sources):
            node.meta["recompute"] = CheckpointPolicy.MUST_RECOMPUTE
            tagged[node] = None
    return list(tagged)


def _may_follow(node: fx.Node, repeatable: set[fx.Node]) -> bool:
    """Whether all operands are there again in the backward, or are small."""
    size = _elements(node)
    return all(source in repeatable or _elements(source) * _SMALL <= size for source in node.all_input_nodes)


def _elements(node: fx.Node) -> int:
    """Elements of a tensor of known size; of any other more than every tensor has."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not isinstance(value.numel(), int):
        return 1 << 62
    return int(value.numel())

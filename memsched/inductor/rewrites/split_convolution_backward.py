"""The two gradients of a convolution need not come at the same time.

The backward of a convolution is one operator with two results, though the library computes one after the other.  Only
the gradient of the input is what the rest of the backward waits for:

    dy, x, w ──> convolution_backward ──> dx ──> …      one operator: dw, and the scratch memory for it, are there when
                                     └──> dw            dx is, which is while most of the saved activations are
    dy, w ──> convolution_backward ──> dx ──> …         two: dw comes when there is room.  Late layers have small
    dy, x ──> convolution_backward ──> dw               images and large weights, so to keep dy and x costs less

For dw the library asks the weights only how large they are and how they lie.  If not as the images do, it would copy
them first, so it is given a view of the same memory that does (Inductor's own kernel for dw is given an empty tensor,
`call_aten_dw` in torch/_inductor/kernel/conv.py).

Claim: the same calls of the library run on the same operands, so every bit of the results is the same; an order that
puts the two side by side, dx first, needs no more than the one operator did.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

__all__ = ["split_convolution_gradients"]

aten = torch.ops.aten

_IMAGES, _WEIGHTS, _GROUPS, _MASK = 1, 2, 9, 10
"""Arguments of `convolution_backward`; the mask says which gradients are wanted: of input, weights, bias."""


def split_convolution_gradients(graph: fx.Graph) -> list[fx.Node]:
    """Replace each `convolution_backward` for both gradients by two; returns those for the weights.

    graph: of ATen operators.  Depthwise convolutions are left as they are.
    """
    both = [node for node in graph.nodes if node.target is aten.convolution_backward.default and _wants_both(node)]
    return [_split(graph, node) for node in both]


def _wants_both(node: fx.Node) -> bool:
    if len(node.args) <= _MASK or any(user.target is not operator.getitem for user in node.users):
        return False
    to_input, to_weights, _bias = node.args[_MASK]
    return bool(to_input and to_weights) and not _is_depthwise(node)


def _is_depthwise(node: fx.Node) -> bool:
    """With one channel in each group: small weights, so that nothing is gained.

    Asked for these weights' gradient alone, Inductor would copy the images into the weights' order of strides
    (`convolution_backward_lowering`, torch/_inductor/kernel/conv.py).
    """
    weights, groups = node.args[_WEIGHTS], node.args[_GROUPS]
    return isinstance(weights, fx.Node) and groups != 1 and weights.meta["val"].shape[1] == 1


def _split(graph: fx.Graph, node: fx.Node) -> fx.Node:
    to_bias = node.args[_MASK][2]
    with graph.inserting_before(node):
        to_weights = _part(graph, node, [False, True, to_bias])
        to_input = _part(graph, node, [True, False, False])
    with graph.inserting_before(to_weights):
        to_weights.update_arg(_WEIGHTS, _as_images_lie(graph, node))
    for result in list(node.users):
        result.replace_input_with(node, to_input if result.args[1] == 0 else to_weights)
    graph.erase_node(node)
    return to_weights


def _part(graph: fx.Graph, node: fx.Node, mask: list[bool]) -> fx.Node:
    part = graph.call_function(aten.convolution_backward.default, (*node.args[:_MASK], mask))
    gradients = zip(node.meta["val"], mask, strict=True)
    part.meta = node.meta | {"val": tuple(gradient if wanted else None for gradient, wanted in gradients)}
    return part


def _as_images_lie(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The weights, or if the channels of the images come last and theirs do not, their memory viewed as if they did."""
    images, weights = (argument.meta["val"] for argument in (node.args[_IMAGES], node.args[_WEIGHTS]))
    last = torch.channels_last
    if not all(isinstance(size, int) for size in (*images.shape, *weights.shape)):
        return node.args[_WEIGHTS]  # asked how it lies, a symbolic shape would guard the compiled code
    if images.dim() != 4 or not images.is_contiguous(memory_format=last) or images.is_contiguous():
        return node.args[_WEIGHTS]
    if weights.is_contiguous(memory_format=last) or not weights.is_contiguous():
        return node.args[_WEIGHTS]
    strides = torch.empty_like(weights, memory_format=last).stride()
    view = graph.call_function(aten.as_strided.default, (node.args[_WEIGHTS], list(weights.shape), list(strides)))
    view.meta["val"] = aten.as_strided.default(weights, weights.shape, strides)
    return view

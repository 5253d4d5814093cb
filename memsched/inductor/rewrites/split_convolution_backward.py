"""The two gradients of a convolution need not come at the same time.

The backward of a convolution is one operator with two results, though the library computes one after the other.  Only
the gradient of the input is what the rest of the backward waits for:

    dy, x, w ──> convolution_backward ──> dx ──> …      one operator: dw, and the scratch memory for it, are there when
                                     └──> dw            dx is, which is while most of the saved activations are
    dy, w ──> convolution_backward ──> dx ──> …         two: dw comes when there is room.  Late layers have small
    dy, x ──> convolution_backward ──> dw               images and large weights, so to keep dy and x costs less

For dw the library asks the weights only how large they are and how they lie, and for dx the images.  If not as the
other operands do, it would copy them first.  So for dw it is given the weights' memory, viewed as if the channels came
last where the images' do (Inductor's own kernel for dw is given an empty tensor, `call_aten_dw` in
torch/_inductor/kernel/conv.py), and for dx it is given dy in the place of images of the same size.  What both parts
read is laid out once, in front of them: Inductor would make a copy for each.

Claim: the same calls of the library run on the same operands, so every bit of the results is the same; an order that
puts the two side by side, dx first, needs no more than the one operator did.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx
from torch._inductor.inductor_prims import force_stride_order

from memsched.inductor.compat import lays_channels_last
from memsched.inductor.rewrites.nodes import call_with_value, is_static
from memsched.inductor.rewrites.realize import realize_operator

__all__ = ["split_convolution_gradients"]

aten = torch.ops.aten

_IMAGES, _WEIGHTS, _GROUPS, _MASK = 1, 2, 9, 10
"""Arguments of `convolution_backward`; the mask says which gradients are wanted: of input, weights, bias."""


def split_convolution_gradients(graph: fx.Graph) -> list[fx.Node]:
    """Replace each `convolution_backward` for both gradients by two; returns those for the weights.

    graph: of ATen operators.  Depthwise convolutions are left as they are.
    """
    both = [node for node in graph.nodes if node.target is aten.convolution_backward.default and _wants_both(node)]
    all_last = bool(both) and lays_channels_last(graph)
    return [_split(graph, node, all_last) for node in both]


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


def _split(graph: fx.Graph, node: fx.Node, all_last: bool) -> fx.Node:
    """all_last: whether Inductor gives every convolution of the graph its images with the channels last."""
    to_bias = node.args[_MASK][2]
    with graph.inserting_before(node):
        if _channels_come_last(node, all_last):
            to_weights_reads, to_input_reads = _laid_out(graph, node)
        else:
            to_weights_reads = to_input_reads = node.args[: _WEIGHTS + 1]
        to_weights = _part(graph, node, to_weights_reads, [False, True, to_bias])
        to_input = _part(graph, node, to_input_reads, [True, False, False])
    for result in list(node.users):
        result.replace_input_with(node, to_input if result.args[1] == 0 else to_weights)
    graph.erase_node(node)
    return to_weights


def _laid_out(graph: fx.Graph, node: fx.Node) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]:
    """Gradient, images and weights for either part, with the channels last: to the weights, to the input."""
    gradient, images, weights = node.args[: _WEIGHTS + 1]
    dy, x = _channels_last(graph, gradient), _channels_last(graph, images)
    if _are_alike(dy, x):
        asked = dy
    elif images.op == "placeholder":
        asked = _viewed_channels_last(graph, images)  # in memory anyway, and x may be a copy
    else:
        asked = x
    return (dy, x, _viewed_channels_last(graph, weights)), (dy, asked, weights)


def _are_alike(one: fx.Node, other: fx.Node) -> bool:
    one, other = one.meta["val"], other.meta["val"]
    return bool(one.shape == other.shape and one.dtype == other.dtype)


def _part(graph: fx.Graph, node: fx.Node, reads: Sequence[fx.Node], mask: list[bool]) -> fx.Node:
    how = node.args[_WEIGHTS + 1 : _MASK]
    part = graph.call_function(aten.convolution_backward.default, (*reads, *how, mask))
    gradients = zip(node.meta["val"], mask, strict=True)
    part.meta = node.meta | {"val": tuple(gradient if wanted else None for gradient, wanted in gradients)}
    return part


def _channels_come_last(node: fx.Node, all_last: bool) -> bool:
    """Whether the library will work with the channels last: one of the two lies so, or Inductor lays all of them so."""
    read = (node.args[_IMAGES], node.args[_WEIGHTS])
    if not all(map(is_static, read)) or read[0].meta["val"].dim() != 4:
        return False
    return all_last or any(map(_lies_last, read))


def _lies_last(tensor: fx.Node) -> bool:
    value = tensor.meta["val"]
    return bool(value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous())


def _channels_last(graph: fx.Graph, tensor: fx.Node) -> fx.Node:
    """`tensor` in memory with its channels last; a copy only where it is not computed so."""
    value = tensor.meta["val"]
    if value.is_contiguous(memory_format=torch.channels_last):
        return tensor
    in_memory = call_with_value(graph, realize_operator, (tensor,))
    return call_with_value(graph, force_stride_order, (in_memory, _strides_of_channels_last(value)))


def _viewed_channels_last(graph: fx.Graph, tensor: fx.Node) -> fx.Node:
    """The memory of `tensor`, viewed as if the channels came last; its values end up in other places."""
    value = tensor.meta["val"]
    if value.is_contiguous(memory_format=torch.channels_last) or not value.is_contiguous():
        return tensor
    lie = (tensor, list(value.shape), _strides_of_channels_last(value))
    return call_with_value(graph, aten.as_strided.default, lie)


def _strides_of_channels_last(value: torch.Tensor) -> list[int]:
    return list(torch.empty_like(value, memory_format=torch.channels_last).stride())

"""Scratch memory of library operators on CPU, which no buffer of the graph stands for.

An operator that Inductor calls rather than generates may allocate while it runs: oneDNN copies the weights of a
convolution into a layout of its own, attention keeps a block of scores for each thread.  The allocator sees it, the
estimate of Inductor does not:

    x, w  ──> convolution ──> y          alive while it runs: x, w, y and another w

The sizes follow the sources where they tell (ATen/native/cpu/FlashAttentionKernel.cpp), else they were calibrated
with `memsched.inductor.bytes.measure` on torch 2.13 (oneDNN 3, AVX-512); `tests/inductor/storages/test_workspaces.py`
holds them to the allocator.  What convolutions of fewer than 16 channels take is up to 20 KiB more.  What is not in the
table counts as 0: products of bfloat16, whose scratch depends on the processor; `sort` and `topk`, which add little;
convolutions of images that are not channels-last, which Inductor only makes without its `layout_optimization`.  On CUDA
nothing is in the table: what cuDNN and cuBLAS take depends on the GPU and cannot be measured without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch._inductor import ir
from torch.utils._pytree import tree_leaves

from memsched.core.graph import Graph

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["Operand", "with_workspaces", "workspace"]

_BLOCK = 16
"""oneDNN's blocked layouts hold channels in blocks of this many."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that an operator reads: sizes and strides in elements, and bytes of one element."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    itemsize: int = 4

    @property
    def bytes(self) -> int:
        """What it takes when dense."""
        return math.prod(self.size) * self.itemsize

    @property
    def channels_last(self) -> bool:
        """Whether its channels, dimension 1, lie next to each other."""
        return self.stride[1] == 1


def with_workspaces(graph: Graph, nodes: Sequence[BaseSchedulerNode], inner: Mapping[int, int]) -> Graph:
    """`graph` with the workspace of each op that the table knows, or that `inner` tells by its index; op i is nodes[i].

    inner: bytes of what ops call (`memsched.inductor.storages.subgraphs`).
    """
    workspaces = [_workspace_of(node) if node.is_extern() else 0 for node in nodes]
    pairs = enumerate(zip(graph.ops, workspaces, strict=True))
    ops = [replace(op, workspace=inner.get(at, known)) if at in inner or known else op for at, (op, known) in pairs]
    return replace(graph, ops=tuple(ops))


def workspace(operator: str, operands: Sequence[Operand], constants: Sequence[Any] = ()) -> int:
    """Bytes that an operator on CPU allocates above its outputs, at its worst moment; 0 for one not in the table.

    operator: name of the ATen overload packet, as in "convolution_backward".
    constants: its arguments that are no tensors, flat.
    """
    rule = _RULES.get(operator)
    return rule(operands, constants) if rule else 0


def _product(operands: Sequence[Operand], _constants: Sequence[Any]) -> int:
    """A copy of each matrix in which no dimension lies dense: an expanded vector, every second column.

    BLAS takes rows or columns that lie apart, but not elements (`addmm_impl_cpu_`, ATen/native/LinearAlgebra.cpp).  Of
    a batch it is given one pair at a time.
    """
    copied = (matrix for matrix in operands[-2:] if not _has_dense_lines(matrix))
    return sum(math.prod(matrix.size[-2:]) * matrix.itemsize for matrix in copied)


def _has_dense_lines(matrix: Operand) -> bool:
    (rows, columns), (between_rows, between_columns) = matrix.size[-2:], matrix.stride[-2:]
    by_rows = between_columns == 1 and between_rows >= max(1, columns)
    by_columns = between_rows == 1 and between_columns >= max(1, rows)
    return by_rows or by_columns


def _convolution(operands: Sequence[Operand], constants: Sequence[Any]) -> int:
    """The weights blocked."""
    activations, weights = operands[:2]
    if not activations.channels_last:
        return 0
    groups, _ = _groups_and_dilation(constants, weights)
    grouped = 1 < weights.size[1] < 8 and groups > 1
    blocked = _blocked_in_groups(weights, groups) if grouped else _blocked(weights)
    return _turned(weights) + blocked + _of_threads(groups)


def _convolution_backward(operands: Sequence[Operand], constants: Sequence[Any]) -> int:
    """First the gradient of the input, with blocked weights; then that of the weights, blocked and as they were."""
    gradient, activations, weights = operands[:3]
    to_input, to_weights = constants[-3:-1]
    if not activations.channels_last:
        return 0
    groups, dilation = _groups_and_dilation(constants[:-3], weights)
    depthwise = groups > 1 == weights.size[1]
    first = 0
    if to_input:
        grouped = dilation > 1 if depthwise else groups > 1 and weights.size[1] < 8
        first = _blocked_in_groups(weights, groups) if grouped else _blocked(weights)
        first += _of_threads(groups)
        if activations.size[2] > 1.5 * gradient.size[2]:  # strided: each thread gathers an image of the gradient
            image = gradient.bytes // gradient.size[0]
            first += int(torch.get_num_threads()) * (image + 8192 * max(weights.size[2:]))
    if not to_weights:
        return _turned(weights) + first
    has_kernel = depthwise and dilation == 1 and max(weights.size[2:]) <= 3
    second = 2 * _blocked(weights) if has_kernel else weights.bytes + _blocked_in_groups(weights, groups)
    return _turned(weights) + max(first - weights.bytes, second)


def _of_threads(groups: int) -> int:
    """What the threads of a convolution that is not grouped keep; measured with one and with two."""
    return 4096 + 4120 * int(torch.get_num_threads()) if groups == 1 else 0


def _turned(weights: Operand) -> int:
    """A copy of weights that do not lie as the images do."""
    return 0 if weights.channels_last else weights.bytes


def _attention(operands: Sequence[Operand], _constants: Sequence[Any]) -> int:
    """For each thread a block of scores, two statistics for each of its rows, and a block of the output."""
    query, key = operands[:2]
    rows, columns = _attention_block(query, key)
    per_thread = rows * columns + 2 * rows + rows * query.size[3]
    return int(torch.get_num_threads()) * per_thread * 4


def _attention_backward(operands: Sequence[Operand], _constants: Sequence[Any]) -> int:
    """For each thread a block of scores and one of their gradients, and a statistic for each row."""
    query, key = operands[1:3]
    rows, columns = _attention_block(query, key)
    return int(torch.get_num_threads()) * (2 * rows * columns + rows) * 4


def _attention_block(query: Operand, key: Operand) -> tuple[int, int]:
    """Rows and columns of a block of scores, as `cpu_flash_attention` chooses them."""
    length = query.size[2]
    rows = 256 if length >= 768 else 64 if length >= 192 else 32
    return min(rows, length), min(512, key.size[2])


def _blocked(weights: Operand) -> int:
    """Bytes of weights in oneDNN's layout: output channels in whole blocks."""
    return weights.bytes // weights.size[0] * _BLOCK * math.ceil(weights.size[0] / _BLOCK)


def _groups_and_dilation(constants: Sequence[Any], weights: Operand) -> tuple[int, int]:
    """The last constants of a convolution are dilation, whether transposed, padding of the output, and groups."""
    dimensions = len(weights.size) - 2
    *_, groups = constants
    transposed = constants[-2 - dimensions]
    dilation = max(constants[-2 - 2 * dimensions : -2 - dimensions])
    # The weights of a transposed one lie the other way round, and were not calibrated in groups.
    return (1, 1) if transposed else (int(groups), int(dilation))


def _blocked_in_groups(weights: Operand, groups: int) -> int:
    """Bytes where the channels of each group are in whole blocks, both of the output and of the input.

    Where oneDNN has no kernel for narrow groups; a group of one channel takes 256 times its bytes.
    """
    outside, inside = weights.size[0] // groups, weights.size[1]
    blocks = math.ceil(outside / _BLOCK) * math.ceil(inside / _BLOCK)
    return weights.bytes // (outside * inside) * _BLOCK * _BLOCK * blocks


_RULES: dict[str, Callable[[Sequence[Operand], Sequence[Any]], int]] = {
    "mm": _product,
    "addmm": _product,
    "bmm": _product,
    "baddbmm": _product,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}


def _workspace_of(node: BaseSchedulerNode) -> int:
    kernel = node.node
    device = node.get_device()
    if not isinstance(kernel, ir.ExternKernel) or device is None or device.type != "cpu":
        return 0
    packet = getattr(kernel.op_overload, "overloadpacket", None)
    operator = getattr(packet, "__name__", "")
    if operator not in _RULES:
        return 0
    operands = [operand for operand in map(_operand, kernel.inputs) if operand is not None]
    if len(operands) < len(kernel.inputs):
        return 0
    named = [kernel.kwargs[name] for name in kernel.ordered_kwargs_for_cpp_kernel if name in kernel.kwargs]
    return workspace(operator, operands, tree_leaves((kernel.constant_args, named)))


def _operand(tensor: Any) -> Operand | None:
    """None for one of a symbolic shape, or without a layout."""
    layout = tensor.maybe_get_layout()
    if not isinstance(layout, ir.Layout):
        return None
    sizes, strides = list(layout.size), list(layout.stride)
    if not all(getattr(number, "is_number", isinstance(number, int)) for number in (*sizes, *strides)):
        return None
    return Operand(tuple(map(int, sizes)), tuple(map(int, strides)), layout.dtype.itemsize)

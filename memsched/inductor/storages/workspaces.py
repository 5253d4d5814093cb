"""Scratch memory of library operators on CPU, which no buffer of the graph stands for.

An operator that Inductor calls rather than generates may allocate while it runs: oneDNN copies the weights of a
convolution into a layout of its own, attention keeps a block of scores for each thread.  The allocator sees it, the
estimate of Inductor does not:

    x, w  ──> convolution ──> y          alive while it runs: x, w, y and another w

Products in single precision copy what BLAS cannot read, and nothing else.  Every other operator of the table is called
once and measured (`memsched.inductor.storages.library_calls`).  What is too large for that takes what the table says:
by the sources where they tell (ATen/native/cpu/FlashAttentionKernel.cpp), else as it was calibrated with
`memsched.inductor.bytes.measure` on torch 2.13 (oneDNN 3, AVX-512), for images with the channels last;
`tests/inductor/storages/test_workspaces.py` holds it to the allocator.  What is not in the table counts as 0, `sort`
and `topk` among it, which add little.  On CUDA nothing is in it: what cuDNN and cuBLAS take depends on the GPU and
cannot be measured without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch._inductor import ir

from memsched.core.graph import Graph
from memsched.inductor.storages.library_calls import LibraryCall, Operand, library_call, measured_workspace

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["with_workspaces", "workspace"]

_BLOCK = 16
"""oneDNN's blocked layouts hold channels in blocks of this many."""


def with_workspaces(
    graph: Graph, nodes: Sequence[BaseSchedulerNode], inner: Mapping[int, int], *, measured: bool = True
) -> Graph:
    """`graph` with the workspace of each op that the table knows, or that `inner` tells by its index; op i is nodes[i].

    inner: bytes of what ops call (`memsched.inductor.storages.subgraphs`); measured: whether operators may be called.
    """
    workspaces = [_workspace_of(node, measured) if node.is_extern() else 0 for node in nodes]
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
    return sum(math.prod(matrix.size[-2:]) * matrix.dtype.itemsize for matrix in copied)


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


def _workspace_of(node: BaseSchedulerNode, may_call: bool) -> int:
    kernel = node.node
    device = node.get_device()
    if not isinstance(kernel, ir.ExternKernel) or device is None or device.type != "cpu":
        return 0
    operator = getattr(getattr(kernel.op_overload, "overloadpacket", None), "__name__", "")
    call = library_call(kernel) if operator in _RULES else None
    if call is None:
        return 0
    measured = measured_workspace(call) if may_call and not _rule_is_exact(call) else None
    return workspace(call.name, call.operands, call.constants) if measured is None else measured


def _rule_is_exact(call: LibraryCall) -> bool:
    """A product in single or double precision goes to BLAS, which takes memory of its own, unless less is asked for."""
    precise = torch.get_float32_matmul_precision() == "highest"
    return _RULES.get(call.name) is _product and precise and all(of.dtype.itemsize >= 4 for of in call.operands)

"""The table of workspaces against the allocator.

While an operator of a library runs, its outputs and its scratch memory are there:

    before   | outputs + workspace (the peak) |   after: outputs

The peak, above what was there before, is what the profiler counts; the table must tell the workspace to 2% and 4 KiB;
the gradient of a strided convolution's input to 8%.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from memsched.inductor.bytes.measure import trace_memory
from memsched.inductor.storages.library_calls import Operand
from memsched.inductor.storages.workspaces import workspace

aten = torch.ops.aten
pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the table was calibrated on a CPU with AVX-512"
)

CONVOLUTIONS = [
    # batch, channels in, channels out, height, kernel, stride, groups, dilation
    (4, 16, 32, 32, 3, 1, 1, 1),
    (8, 32, 64, 32, 1, 1, 1, 1),
    (8, 64, 64, 32, 3, 1, 1, 1),
    (8, 32, 64, 64, 3, 2, 1, 1),
    (8, 64, 128, 16, 3, 2, 1, 1),
    (8, 128, 128, 16, 3, 1, 1, 1),
    (4, 32, 32, 32, 3, 1, 1, 2),
    (4, 32, 32, 32, 3, 1, 32, 1),
    (2, 8, 8, 8, 3, 1, 8, 2),
    (8, 32, 32, 32, 3, 1, 32, 2),
    (4, 32, 32, 32, 5, 1, 32, 1),
    (4, 32, 32, 16, 3, 1, 4, 1),
    (4, 64, 64, 16, 3, 1, 32, 1),
]


def operands(*tensors: Tensor) -> list[Operand]:
    return [Operand(tuple(t.shape), tuple(t.stride()), t.dtype) for t in tensors]


def peak_and_outputs(call: Callable[[], Any]) -> tuple[int, int]:
    """Bytes at the worst moment of a warm call, and those of what it returns."""
    call()
    trace = trace_memory(call)
    returned = call()
    outputs = returned if isinstance(returned, tuple) else (returned,)
    return trace.peak, sum(t.untyped_storage().nbytes() for t in outputs if isinstance(t, Tensor))


def assert_explained(
    call: Callable[[], Any], operator: str, reads: Sequence[Tensor], constants: Any = (), share: float = 0.02
) -> None:
    peak, outputs = peak_and_outputs(call)
    expected = workspace(operator, operands(*reads), constants)
    assert abs(outputs + expected - peak) <= share * expected + 4 * 1024, (outputs, expected, peak)


def images(*shape: int) -> Tensor:
    """As Inductor lays out what convolutions read on CPU."""
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case: tuple[int, ...]) -> None:
    batch, channels, filters, height, kernel, stride, groups, dilation = case
    x = images(batch, channels, height, height)
    weight = images(filters, channels // groups, kernel, kernel)
    how = ([stride] * 2, [dilation * (kernel // 2)] * 2, [dilation] * 2, False, [0, 0], groups)
    call = partial(aten.convolution, x, weight, None, *how)
    assert_explained(call, "convolution", [x, weight], tree_leaves(how))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mask", [(True, True, False), (False, True, False), (True, False, False)])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_backward(case: tuple[int, ...], mask: tuple[bool, bool, bool], turned: bool) -> None:
    """With weights that lie as the images do, or the other way round."""
    batch, channels, filters, height, kernel, stride, groups, dilation = case
    x = images(batch, channels, height, height)
    weight = images(filters, channels // groups, kernel, kernel)
    weight = weight.contiguous() if turned else weight
    how = ([stride] * 2, [dilation * (kernel // 2)] * 2, [dilation] * 2, False, [0, 0], groups)
    gradient = images(*aten.convolution(x, weight, None, *how).shape)
    reads = (gradient, x, weight)
    call = partial(aten.convolution_backward, *reads, [0], *how, mask)
    share = 0.08 if stride > 1 and mask[0] else 0.02
    assert_explained(call, "convolution_backward", reads, tree_leaves((how, mask)), share)


@pytest.mark.parametrize("length", [64, 256, 1024])
def test_attention(length: int) -> None:
    """As Inductor hands them over: batch, heads, length, width, lying as batch, length, heads, width."""
    query, key, value, gradient = (torch.randn(2, length, 4, 32).transpose(1, 2) for _ in range(4))
    name = "_scaled_dot_product_flash_attention_for_cpu"
    forward = getattr(aten, name)
    reads = (query, key, value)
    assert_explained(lambda: forward(*reads, 0.0, True), name, reads)
    backward = getattr(aten, f"{name}_backward")
    reads = (gradient, *reads, *forward(*reads, 0.0, True))
    assert_explained(lambda: backward(*reads, 0.0, True), f"{name}_backward", reads)


def test_an_operator_that_is_not_in_the_table_has_none() -> None:
    assert workspace("mm", operands(torch.ones(4, 4), torch.ones(4, 4))) == 0


@pytest.mark.parametrize("operator", ["mm", "bmm"])
def test_a_product_copies_operands_without_dense_lines(operator: str) -> None:
    """BLAS reads rows or columns that lie apart, but no expanded vectors and not every second element."""
    n, many = 64, ((4,) if operator == "bmm" else ())
    plain, out = torch.randn(*many, n, n), torch.empty(*many, n, n)
    wide = torch.randn(*many, n, 2 * n)
    expanded = torch.randn(*many, 1, n).expand(*many, n, n)
    call = getattr(torch, operator)
    for matrix in (plain, plain.mT, expanded, expanded.mT, wide[..., ::2], wide[..., :n], wide[..., ::2].mT):
        for pair in ((plain, matrix), (matrix, plain)):
            call(*pair, out=out)
            peak = trace_memory(lambda pair=pair: call(*pair, out=out)).peak  # type: ignore[misc]
            assert peak == workspace(operator, operands(*pair))

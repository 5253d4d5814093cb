"""Scratch memory of library operators, measured by one call on zeros.

shapes, strides, types ──> one call in a thread of its own ──> its peak, less its results = what the allocator sees
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import profile

from memsched.inductor.bytes.measure import trace_memory
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions
from memsched.inductor.storages import library_calls, workspaces
from memsched.inductor.storages.library_calls import LibraryCall, Operand, measured_workspace

aten = torch.ops.aten


def call_of(operator: Any, *arguments: Any) -> LibraryCall:
    """As `library_call` makes one of a kernel."""

    def frozen(value: Any) -> Any:
        if isinstance(value, Tensor):
            return Operand(tuple(value.shape), tuple(value.stride()), value.dtype)
        return tuple(value) if isinstance(value, list) else value

    return LibraryCall(operator, tuple(map(frozen, arguments)))


def workspace_of(operator: Any, *arguments: Any) -> int:
    """What the allocator sees of a warm call, less its results: the truth."""
    operator(*arguments)
    trace = trace_memory(lambda: operator(*arguments))
    returned = operator(*arguments)
    results = returned if isinstance(returned, tuple) else (returned,)
    return trace.peak - sum(one.untyped_storage().nbytes() for one in results if isinstance(one, Tensor))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [64, 256, 512])
def test_products(size: int, turned: bool, dtype: torch.dtype) -> None:
    """By shape, type and stride: no formula of the sizes alone tells them."""
    left, right = torch.randn(size, 2 * size).to(dtype), torch.randn(2 * size, size).to(dtype)
    left = left.t().contiguous().t() if turned else left
    assert measured_workspace(call_of(aten.mm.default, left, right)) == workspace_of(aten.mm.default, left, right)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [3, 16, 40])
def test_convolutions_in_every_layout(channels: int, last: bool) -> None:
    images, weights = torch.randn(2, channels, 16, 16), torch.randn(16, channels, 3, 3)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    how = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    forward = (aten.convolution.default, images, weights, None, *how)
    assert measured_workspace(call_of(*forward)) == workspace_of(*forward)
    gradient = torch.randn_like(aten.convolution(images, weights, None, *how))
    mask = [True, True, False]
    backward = (aten.convolution_backward.default, gradient, images, weights, [0], *how, mask)
    assert measured_workspace(call_of(*backward)) == workspace_of(*backward)


def test_a_measurement_minds_neither_the_modes_of_a_compile_nor_a_profiler_and_draws_nothing() -> None:
    left = torch.randn(96, 96).to(torch.bfloat16)
    truth, state = workspace_of(aten.mm.default, left, left), torch.random.get_rng_state()
    call = call_of(aten.mm.default, left, left)
    for around in (FakeTensorMode(), torch.autocast("cpu", torch.float16), profile(profile_memory=True)):
        library_calls._measured.cache_clear()
        with around:  # type: ignore[attr-defined]
            assert measured_workspace(call) == truth
    assert torch.equal(state, torch.random.get_rng_state())
    assert not [thread for thread in threading.enumerate() if thread.name == "memsched workspace"]


def test_the_number_of_threads_counts() -> None:
    """Each thread of an attention has a block of scores."""
    query = torch.randn(1, 4, 256, 32)
    attention = aten._scaled_dot_product_flash_attention_for_cpu.default
    before = torch.get_num_threads()
    found = set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.add(measured_workspace(call_of(attention, query, query, query)))
            assert measured_workspace(call_of(attention, query, query, query)) in {
                workspace_of(attention, query, query, query)
            }
    finally:
        torch.set_num_threads(before)
    assert len(found) == 2


def test_calls_that_are_large_fail_or_are_not_known_are_left_to_the_table() -> None:
    large = torch.empty(4096, 4096, device="meta")
    assert measured_workspace(call_of(aten.mm.default, large, large)) is None
    long = torch.empty(2**28 + 1, 1, device="meta")
    assert measured_workspace(call_of(aten.mm.default, long, torch.empty(1, 1))) is None
    assert measured_workspace(call_of(aten.mm.default, torch.ones(4, 5), torch.ones(4, 5))) is None, "it raises"
    assert measured_workspace(call_of(aten.sort.default, torch.ones(4))) is None


class Convolutions(nn.Module):
    """A convolution with a bias, a transposed one, and attention, in what order their arguments come in."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = nn.Conv2d(16, 32, 3, padding=1), nn.ConvTranspose2d(32, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.outside(torch.relu(self.inside(x))).flatten(2).unflatten(1, (4, 4)).transpose(2, 3)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads).square().mean()


@pytest.mark.plans
def test_without_measuring_every_operator_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those are that are too large to be called: the plan is strict, and near the one that is measured on a
    processor like that of the table."""
    model, batch = Convolutions(), (torch.randn(2, 16, 16, 16),)
    measured = [report.peak for report in plan_only(model, batch, BackendOptions(strict=True))]

    def forbidden(call: LibraryCall) -> int:
        raise AssertionError(f"{call.name} was called")

    monkeypatch.setattr(workspaces, "measured_workspace", forbidden)
    looked_up = plan_only(model, batch, BackendOptions(strict=True, measure_scratch=False))
    plan_only(model, batch, BackendOptions(strict=True, measure_scratch=False), stock=True)
    for report, peak in zip(looked_up, measured, strict=True):
        assert report.graph is not None and any(op.workspace for op in report.graph.ops)
        if torch.backends.cpu.get_cpu_capability() == "AVX512":
            assert abs(report.peak - peak) <= 0.3 * peak

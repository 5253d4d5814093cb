"""Replaying generated wrappers: hand-written ones whose bytes can be counted on fingers, and real ones.

A float32 of 256 elements is 1 KiB; the tests count in those.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench.models.registry import build
from memsched.inductor.bytes.replay import Replay, WrapperInput, replay_wrapper
from memsched.inductor.capture.wrapper_source import generate_wrappers
from memsched.storage.pieces import CUDA_ALIGNMENT

KIB = 1024
X = WrapperInput("x", (256,), (1,), torch.float32, "cpu")
SAVED = dataclasses.replace(X, name="saved", held=False)

HEADER = """
import torch
import module_of_another_device as tl
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.select_algorithm import extern_kernels
aten = torch.ops.aten
empty_strided_cpu = torch._C._dynamo.guards._empty_strided_cpu
reinterpret_tensor = torch._C._dynamo.guards._reinterpret_tensor
async_compile = AsyncCompile()
kernel = async_compile.cpp_pybinding(['float*'], r'''this is not C++''')
async_compile.wait(globals())
del async_compile
"""
NEW = "empty_strided_cpu((256,), (1,), torch.float32)"


def replayed(*lines: str, inputs: tuple[WrapperInput, ...] = (X,), alignment: int = 1) -> Replay:
    """The replay of a wrapper whose call has these lines."""
    names = ", ".join(one.name for one in inputs)
    body = [f"{names}, = args", "args.clear()", *lines]
    source = HEADER + "def call(args):\n" + "".join(f"    {line}\n" for line in body)
    return replay_wrapper(source, inputs, alignment=alignment)


def test_a_deleted_buffer_is_free_before_the_next_allocation() -> None:
    chain = replayed(f"a = {NEW}", "kernel(x, a)", f"b = {NEW}", "del a", f"c = {NEW}", "del b", "return (c,)")
    assert chain.curve == (KIB, 2 * KIB, KIB, 2 * KIB, KIB)
    assert (chain.peak, chain.retained) == (2 * KIB, KIB)


def test_a_reused_storage_is_counted_once() -> None:
    """`buf1 = buf0; del buf0  # reuse`, and a view of another shape of it."""
    reuse = replayed(f"a = {NEW}", "b = reinterpret_tensor(a, (16, 16), (16, 1), 0); del a  # reuse", "return (b,)")
    assert (reuse.peak, reuse.retained) == (KIB, KIB)


def test_a_held_input_stays_and_a_saved_one_goes() -> None:
    """Deleting a parameter frees nothing; deleting a saved activation does: the call may end below where it began."""
    kept = replayed("del x", f"a = {NEW}", "return (a,)")
    freed = replayed("del saved", f"a = {NEW}", "del a", "return ()", inputs=(SAVED,))
    assert (kept.peak, kept.retained) == (KIB, KIB)
    assert (freed.peak, freed.retained) == (0, -KIB)


def test_inputs_that_are_views_of_one_storage_free_it_together() -> None:
    first = dataclasses.replace(SAVED, name="first", size=(128,), storage=7, storage_bytes=KIB)
    second = dataclasses.replace(first, name="second", offset=128)
    both = replayed("del first", f"a = {NEW}", "del second", "return (a,)", inputs=(first, second))
    assert (both.entry, both.peak, both.retained) == (KIB, KIB, 0)


def test_operators_return_what_their_fake_kernels_say() -> None:
    """A fallback with two results: 1 KiB of values, 2 KiB of int64 positions; `out=` and views allocate nothing."""
    sort = replayed("s = aten.sort.default(x)", "v, i = s[0], s[1]", "del s, v", "w = i.view(16, 16)", "return (w,)")
    assert (sort.peak, sort.retained) == (3 * KIB, 2 * KIB)
    product = ["m = empty_strided_cpu((16, 16), (16, 1), torch.float32)", "y = x.view(16, 16)"]
    assert replayed(*product, "extern_kernels.mm(y, y, out=m)", "return (m,)").peak == KIB


def test_sizes_round_up_to_the_blocks_of_the_allocator() -> None:
    """Those of the device; what a CUDA graph has on the host, such as a state of its random generator, takes none."""
    on_cpu = "a = empty_strided_cpu((), (), torch.float32)"
    on_gpu = "a = empty_strided_cuda((), (), torch.float32)"
    assert replayed(on_gpu, "return (a,)").peak == 4
    assert replayed(on_gpu, "return (a,)", alignment=CUDA_ALIGNMENT).peak == 512
    assert replayed(on_cpu, "return (a,)").peak == 4
    assert replayed(on_cpu, "return (a,)", alignment=CUDA_ALIGNMENT).peak == 0, "the host holds it, not the GPU"


def test_a_curve_point_names_its_line() -> None:
    replay = replayed(f"a = {NEW}", f"b = {NEW}", "return (a, b)")
    assert replay.lines[1] == replay.lines[0] + 1


def test_a_module_without_call_is_refused() -> None:
    with pytest.raises(ValueError, match="no call"):
        replay_wrapper("import torch", [])


@pytest.mark.plans
def test_generated_wrappers_replay_without_a_compiler() -> None:
    """Forward and backward of a small GPT: the backward frees what the forward saved."""
    workload = build("gpt", "small")
    wrappers = generate_wrappers(workload.model, workload.batch)
    assert [wrapper.name.split()[0] for wrapper in wrappers] == ["forward", "backward"]
    forward, backward = (wrapper.replay() for wrapper in wrappers)
    assert 0 < forward.retained <= forward.peak
    gradients = sum(parameter.nbytes for parameter in workload.model.parameters())
    assert backward.retained < gradients < backward.peak + gradients

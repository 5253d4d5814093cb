"""The answers that Inductor gets when it asks about a GPU, and no more: every name that is replaced is in `_NAMES`.

    torch.cuda, CudaInterface      properties of the device (an H100), its number, its random state
    scheduler, compile_fx          triton can be used
    UniformValueConstantFolder     folds constants of one element by computing them: here on the CPU
    proxy_tensor                   computes what is made of constants only while it traces: here on the CPU
    scaled_dot_product_attention   the kernels that a GPU would choose: flash for 16 bit without a mask, else
                                   memory-efficient; without this it would be decomposed into its arithmetic

`torch.cuda.is_available()` stays False, so that code that asks it builds on the CPU.  The number of multiprocessors
decides which reductions are split in two, so it shows in the plan.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch._dynamo.device_interface as device_interface
import torch._inductor.compile_fx as compile_fx
import torch._inductor.fx_passes.joint_graph as joint_graph
import torch._inductor.graph as inductor_graph
import torch._inductor.scheduler as scheduler
import torch.fx.experimental.proxy_tensor as proxy_tensor
import torch.utils._triton as triton_utils
from torch.utils._python_dispatch import TorchDispatchMode

from memsched.inductor.cuda_without_gpu.environment import CudaUnavailable

__all__ = ["Gpu", "check_names", "pretend_gpu"]

_NAMES = (
    (scheduler, "has_triton"),
    (compile_fx, "has_triton"),
    (triton_utils, "triton_hash_with_backend"),
    (joint_graph.UniformValueConstantFolder, "_deduce_value"),
    (proxy_tensor, "unset_fake_temporarily"),
    (inductor_graph.GraphLowering, "_compile_to_module_lines"),
    *((torch.cuda, name) for name in ("get_device_properties", "get_device_capability", "current_device")),
    *((torch.cuda, name) for name in ("device_count", "is_bf16_supported", "get_rng_state", "set_rng_state")),
    *((device_interface.CudaInterface, name) for name in ("get_device_properties", "current_device")),
    *((device_interface.CudaInterface, name) for name in ("device_count", "is_bf16_supported")),
    *((device_interface.CudaInterface.Worker, name) for name in ("get_device_properties", "current_device")),
)
"""Every private name that is replaced here or in `wrapper_source`: `check_names` refuses a torch that lacks one."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """What `torch.cuda.get_device_properties` tells about a device; the default is an H100 (SXM, 80 GB)."""

    name: str = "NVIDIA H100"
    major: int = 9
    minor: int = 0
    total_memory: int = 80 << 30
    multi_processor_count: int = 132
    regs_per_multiprocessor: int = 65536
    max_threads_per_multi_processor: int = 2048
    max_threads_per_block: int = 1024
    warp_size: int = 32
    shared_memory_per_block: int = 49152
    shared_memory_per_block_optin: int = 232448
    shared_memory_per_multiprocessor: int = 233472
    L2_cache_size: int = 50 << 20
    gcnArchName: str = ""


def check_names() -> None:
    """Raises CudaUnavailable when this torch has no such private name: its version is another one than it says."""
    for owner, name in _NAMES:
        if not hasattr(owner, name):
            where = getattr(owner, "__qualname__", owner.__name__)
            raise CudaUnavailable(f"torch {torch.__version__} has no {where}.{name}: plans for CUDA are not possible")


@contextlib.contextmanager
def pretend_gpu(show_device: Callable[[int], int], gpu: Gpu) -> Iterator[None]:
    """Inside, PyTorch believes that there is a GPU that it may plan for.

    show_device: of the shim (`memsched_show_device`).
    """
    with contextlib.ExitStack() as stack:
        for owner, name, value in _answers(gpu):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(_constants_folded_on_cpu())
        stack.enter_context(_attention_of_a_gpu())
        was = show_device(1)
        stack.callback(show_device, was)
        yield


def _answers(gpu: Gpu) -> list[tuple[Any, str, Any]]:
    def always(value: object) -> Callable[..., Any]:
        return lambda *_args, **_kwargs: value

    answers: list[tuple[Any, str, Any]] = [
        (torch.cuda, "get_device_capability", always((gpu.major, gpu.minor))),
        (torch.cuda, "get_rng_state", lambda *_args, **_kwargs: torch.zeros(16, dtype=torch.uint8)),
        (torch.cuda, "set_rng_state", always(None)),
        (scheduler, "has_triton", always(True)),
        (compile_fx, "has_triton", always(True)),
        (triton_utils, "triton_hash_with_backend", always("no triton backend")),
    ]
    interface = device_interface.CudaInterface
    facts = {
        "get_device_properties": gpu,
        "current_device": 0,
        "device_count": 1,
        "is_bf16_supported": gpu.major >= 8,
    }
    for name, value in facts.items():
        answers.append((torch.cuda, name, always(value)))
        answers.append((interface, name, staticmethod(always(value))))
        if hasattr(interface.Worker, name):
            answers.append((interface.Worker, name, staticmethod(always(value))))
    return answers


class _OnCpu(TorchDispatchMode):  # type: ignore[misc]
    """Constructors that name a CUDA device make their tensor on the CPU."""

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = torch.utils._pytree.tree_map_only(
            torch.device, lambda device: torch.device("cpu"), (args, kwargs or {})
        )
        return func(*args, **kwargs)


@contextlib.contextmanager
def _constants_folded_on_cpu() -> Iterator[None]:
    folder = joint_graph.UniformValueConstantFolder
    stock = folder._deduce_value

    def deduce(self: Any, node: torch.fx.Node) -> Any:
        with _OnCpu():
            return stock(self, node)

    fake_is_off = proxy_tensor.unset_fake_temporarily

    @contextlib.contextmanager
    def real_on_cpu() -> Iterator[None]:
        with fake_is_off(), _OnCpu():
            yield

    with (
        mock.patch.object(folder, "_deduce_value", deduce),
        mock.patch.object(proxy_tensor, "unset_fake_temporarily", real_on_cpu),
    ):
        yield


def _attend(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, *,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """The choice of `_fused_sdp_choice` on a GPU, as far as shapes and types decide it."""
    aten = torch.ops.aten
    sixteen_bit = query.dtype in (torch.float16, torch.bfloat16)
    aligned = query.shape[-1] % (8 if sixteen_bit else 4) == 0 and value.shape[-1] % (8 if sixteen_bit else 4) == 0
    if not aligned or query.dim() != 4 or (attn_mask is not None and attn_mask.requires_grad):
        return aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    if attn_mask is None and sixteen_bit and query.shape[-1] == value.shape[-1] <= 256:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = _additive(attn_mask, query).expand(*query.shape[:3], key.shape[-2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]


def _additive(mask: Any, query: Any) -> Any:
    """A mask of booleans as one that is added to the scores."""
    if mask.dtype != torch.bool:
        return mask
    zeros = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(mask, zeros, float("-inf")).to(query.dtype)


@contextlib.contextmanager
def _attention_of_a_gpu() -> Iterator[None]:
    operator = torch.ops.aten.scaled_dot_product_attention.default
    own = dict(operator.py_kernels)
    operator.py_kernels[torch._C.DispatchKey.CompositeImplicitAutograd] = _attend
    operator._dispatch_cache.clear()
    try:
        yield
    finally:
        operator.py_kernels.clear()
        operator.py_kernels.update(own)
        operator._dispatch_cache.clear()

"""A step on fake tensors of a device: built by the user's function, moved to "cuda", costing no memory at any size.

The function runs under fake tensors, so a model of 100 GiB is built in the time of its Python code.  A function that
needs values while it builds (it reads a file into a tensor, looks at an element) runs once more with real tensors on
the CPU.  Either way every parameter, buffer and tensor of the batch that is on the CPU is then replaced by a fake one
on the device: same shape, strides and type; what shared a storage or an object before shares it still.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_map_only

from memsched.core.sizes import InputError
from memsched.inductor.held import held_bytes
from memsched.inductor.questions.target import Target, build_target, find_function
from memsched.records.step import HeldBytes

__all__ = ["FakeStep", "build_step"]


@dataclass(frozen=True, slots=True)
class FakeStep:
    """One step on fake tensors: call `model(*batch)` under `mode`; `held` is what the caller holds meanwhile."""

    mode: FakeTensorMode
    model: Callable[..., Any]
    batch: tuple[Any, ...]
    held: HeldBytes


def build_step(target: str, arguments: Mapping[str, Any], device: str) -> FakeStep:
    """Call the function `module:function` with `arguments`, and put what it returns on `device`.

    Raises:
        InputError: there is no such function, it fails, takes no such argument, or returns something else.
    """
    function = find_function(target)
    _check_arguments(function, target, arguments)
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    step = _build(function, target, arguments, mode)
    mover = _Mover(mode, device)
    if isinstance(step.model, nn.Module):
        mover.move_module(step.model)
    batch = tree_map_only(Tensor, mover.move, step.batch)
    held = held_bytes(step.model, batch, step.optimizer)
    return FakeStep(mode, step.model, batch, held)


def _check_arguments(function: Callable[..., Any], target: str, arguments: Mapping[str, Any]) -> None:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise InputError(f"{target}: {error}") from None
    except ValueError:
        return  # a function without a signature: the call will tell


def _build(function: Callable[..., Any], target: str, arguments: Mapping[str, Any], mode: FakeTensorMode) -> Target:
    def call() -> Any:
        return function(**arguments)

    try:
        with mode:
            return build_target(call, target)
    except InputError:
        return build_target(call, target)  # needs values, or fails for a reason that it can tell


class _Mover:
    """Fake twins of tensors on a device, one for each tensor, and one storage for each storage."""

    def __init__(self, mode: FakeTensorMode, device: str) -> None:
        self.mode, self.device = mode, device
        self.twins: dict[int, tuple[Tensor, Tensor]] = {}
        self.storages: dict[int, tuple[Tensor, Tensor]] = {}

    def move_module(self, model: nn.Module) -> None:
        """Replace the parameters and buffers of every submodule."""
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = self.move(tensor)

    def move(self, tensor: Tensor) -> Tensor:
        """The twin of `tensor`; itself when it is a fake tensor of the device already."""
        if isinstance(tensor, FakeTensor) and tensor.fake_mode is self.mode and tensor.device.type == self.device:
            return tensor
        if id(tensor) not in self.twins:
            self.twins[id(tensor)] = (tensor, self._twin(tensor))  # the tensor too, so that its id stays its own
        return self.twins[id(tensor)][1]

    def _twin(self, tensor: Tensor) -> Tensor:
        if tensor.layout is not torch.strided:
            raise InputError(f"a tensor of the model or its batch is {tensor.layout}: only strided ones can be planned")
        storage = tensor.untyped_storage()
        with self.mode, torch.no_grad():
            if storage._cdata not in self.storages:
                base = torch.empty(storage.nbytes(), dtype=torch.uint8, device=self.device)
                self.storages[storage._cdata] = (tensor, base)
            shared = self.storages[storage._cdata][1].untyped_storage()
            twin = torch.empty(0, dtype=tensor.dtype, device=self.device)
            twin.set_(shared, tensor.storage_offset(), tensor.shape, tensor.stride())
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(twin, requires_grad=tensor.requires_grad)
        return twin.requires_grad_(tensor.requires_grad)

"""Fake twins of tensors: a step at any size costs no memory, and nothing of the user's is touched.

    parameter, buffer, tensor of the batch ──> fake tensor of the same shape, strides and type, on the device asked for

What shared a storage or an object before shares it still.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_map_only

from memsched.core.sizes import InputError
from memsched.inductor.calls import Batch

__all__ = ["FakeTwins", "fake_mode", "modules_converted", "on_fakes"]


def fake_mode() -> FakeTensorMode:
    """A mode that lets real tensors through, such as constants that the user's code holds."""
    return FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)


@contextlib.contextmanager
def modules_converted() -> Iterator[None]:
    """Within the context `module.to(torch.bfloat16)`, `.half()` and the like work on fake parameters, too.

    `nn.Module._apply` swaps a fake parameter with what it is converted to (torch/nn/modules/module.py), which
    `torch.utils.swap_tensors` refuses, because fake tensors have weak references to them.  A real one it leaves where
    it is, with other data; so does this.
    """
    swap = torch.utils.swap_tensors

    def give_data(tensor: Tensor, converted: Tensor) -> None:
        if isinstance(tensor, FakeTensor):
            tensor.data = converted.data
        else:
            swap(tensor, converted)

    with mock.patch.object(torch.utils, "swap_tensors", give_data):
        yield


@dataclass
class FakeTwins:
    """One twin for each tensor, and one storage for each storage.

    device: where the twins are; None: where their tensors are.
    """

    mode: FakeTensorMode
    device: str | None = None
    twins: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    storages: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def put_into(self, model: nn.Module) -> list[tuple[dict[str, Tensor | None], str, Tensor]]:
        """Replace the parameters and buffers of every submodule; what was replaced, and where."""
        replaced = []
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = self.of(tensor)
                        replaced.append((tensors, name, tensor))
        return replaced  # type: ignore[return-value]

    def of_batch(self, batch: Batch) -> Batch:
        """The batch with twins in place of its tensors."""
        twins: Batch = tree_map_only(Tensor, self.of, batch)
        return twins

    def of(self, tensor: Tensor) -> Tensor:
        """The twin of `tensor`; itself when it is a fake tensor of the device already."""
        device = self.device or tensor.device.type
        if isinstance(tensor, FakeTensor) and tensor.fake_mode is self.mode and tensor.device.type == device:
            return tensor
        if id(tensor) not in self.twins:
            # The tensor, too, so that its id stays its own.
            self.twins[id(tensor)] = (tensor, self._twin(tensor, device))
        return self.twins[id(tensor)][1]

    def _twin(self, tensor: Tensor, device: str) -> Tensor:
        if tensor.layout is not torch.strided:
            raise InputError(f"a tensor of the model or its batch is {tensor.layout}: only strided ones can be planned")
        storage = tensor.untyped_storage()
        with self.mode, torch.no_grad():
            if storage._cdata not in self.storages:
                base = torch.empty(storage.nbytes(), dtype=torch.uint8, device=device)
                self.storages[storage._cdata] = (tensor, base)
            shared = self.storages[storage._cdata][1].untyped_storage()
            twin = torch.empty(0, dtype=tensor.dtype, device=device)
            twin.set_(shared, tensor.storage_offset(), tensor.shape, tensor.stride())
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(twin, requires_grad=tensor.requires_grad)
        return twin.requires_grad_(tensor.requires_grad)


@contextlib.contextmanager
def on_fakes(model: nn.Module, batch: Batch) -> Iterator[Batch]:
    """Within the context `model` has fake parameters and buffers; gives the batch that goes with them."""
    twins = FakeTwins(fake_mode())
    replaced = twins.put_into(model)
    try:
        with twins.mode:
            yield twins.of_batch(batch)
    finally:
        for tensors, name, tensor in replaced:
            tensors[name] = tensor

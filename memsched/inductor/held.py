"""What the caller holds while the graphs of a step run: no plan can free it.

Parameters, buffers, gradients that exist already, the batch, and the optimizer's state as it is *after the first step*,
whether that step has been made or not: memory that every later step finds taken.  One definition, for `explain`,
`plan` and `check`, on real tensors and on fake ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from memsched.inductor.calls import Batch, Model
from memsched.records.step import HeldBytes

__all__ = ["held_bytes", "storage_bytes"]


def held_bytes(model: Model, batch: Batch, optimizer: torch.optim.Optimizer | None) -> HeldBytes:
    """Each storage once; bytes.  A model that is no module holds nothing that is known."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    return HeldBytes(
        parameters=storage_bytes(parameters),
        buffers=storage_bytes(model.buffers()) if isinstance(model, nn.Module) else 0,
        gradients=storage_bytes(parameter.grad for parameter in parameters if parameter.grad is not None),
        optimizer_state=None if optimizer is None else _state_after_first_step(optimizer, parameters),
        batch=storage_bytes(leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)),
    )


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages, each once."""
    storages = {tensor.untyped_storage()._cdata: int(tensor.untyped_storage().nbytes()) for tensor in tensors}
    return sum(storages.values())


def _state_after_first_step(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> int | None:
    """Bytes that the optimizer holds after its first step; None when that cannot be found out.

    A copy of the optimizer makes one step on tensors of the device "meta": states have sizes there, and the count of
    steps, which PyTorch keeps on the CPU, has its value: it counts where the parameters are on the CPU, too.
    """
    twin = copy.copy(optimizer)
    twin.state = type(optimizer.state)(dict)
    twin.param_groups = [dict(group) | {"foreach": False, "fused": None} for group in optimizer.param_groups]
    for group in twin.param_groups:
        metas = [torch.empty(p.shape, dtype=p.dtype, device="meta", requires_grad=True) for p in group["params"]]
        for meta in metas:
            meta.grad = torch.empty_like(meta)
        group["params"] = metas
    try:
        twin.step()
    except Exception:
        return None
    leaves = [leaf for leaf in tree_leaves([*map(dict, twin.state.values())]) if isinstance(leaf, Tensor)]
    devices = {parameter.device.type for parameter in parameters}
    return sum(int(leaf.nbytes) for leaf in leaves if leaf.device.type == "meta" or devices == {"cpu"})

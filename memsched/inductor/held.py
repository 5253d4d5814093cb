"""What the caller holds while the graphs of a step run: no plan can free it.

Parameters, buffers, gradients that exist already, the batch, and the optimizer's state as it is *after the first step*,
whether that step has been made or not: memory that every later step finds taken.  One definition, for `explain`,
`plan` and `check`, on real tensors and on fake ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from memsched.inductor.calls import Batch, Model, Optimizers, optimizers_of
from memsched.inductor.optimizer_step import optimizer_step
from memsched.records.step import HeldBytes

__all__ = ["held_bytes", "storage_bytes"]


def held_bytes(model: Model, batch: Batch, optimizers: Optimizers) -> HeldBytes:
    """Each storage once; bytes.  A model that is no module holds nothing that is known."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    update = optimizer_step(optimizers_of(optimizers), parameters)
    return HeldBytes(
        parameters=storage_bytes(parameters),
        buffers=storage_bytes(model.buffers()) if isinstance(model, nn.Module) else 0,
        gradients=storage_bytes(parameter.grad for parameter in parameters if parameter.grad is not None),
        optimizer_state=None if update is None else update.state,
        batch=storage_bytes(leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)),
        update=update,
    )


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages, each once."""
    storages = {tensor.untyped_storage()._cdata: int(tensor.untyped_storage().nbytes()) for tensor in tensors}
    return sum(storages.values())

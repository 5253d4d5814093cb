"""What an optimizer holds and what its own step allocates, found out without memory.

A copy of the optimizer makes two steps on tensors of the device "meta", which have sizes and no memory.  After the
first its state is there; during the second every storage is counted from when it appears until Python lets go of it:

    AdamW, one tensor after another    the root of one second moment                at most the largest parameter
    AdamW, foreach (the rule on CUDA)  the roots of all second moments at once      as much as all parameters
    fused                              nothing

All gradients are alive meanwhile: this, and not the backward, may be where a step peaks.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memsched.records.step import OptimizerStep

__all__ = ["optimizer_step", "without_state"]


def optimizer_step(optimizers: Sequence[torch.optim.Optimizer], parameters: Sequence[Tensor]) -> OptimizerStep | None:
    """State, gradients and temporaries of `optimizers`, which make their steps one after the other.

    None when there is none, or one cannot make a step on tensors without memory.

    parameters: of the model, whose devices decide how an optimizer goes about its step.
    """
    steps = [step for step in (_step_of(optimizer, parameters) for optimizer in optimizers) if step is not None]
    if not steps or len(steps) < len(optimizers):
        return None
    return OptimizerStep(
        state=sum(step.state for step in steps),
        gradients=sum(step.gradients for step in steps),
        temporaries=max(step.temporaries for step in steps),
    )


def _step_of(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> OptimizerStep | None:
    devices = {parameter.device.type for parameter in parameters}
    twin = without_state(optimizer, lambda group: _on_meta(group, on_gpu="cuda" in devices))
    try:
        twin.step()
        states = [leaf for leaf in tree_leaves([*map(dict, twin.state.values())]) if isinstance(leaf, Tensor)]
        updated = [parameter for group in twin.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in updated if parameter.grad is not None]
        with _Alive((*states, *updated, *gradients)) as alive:
            twin.step()
    except Exception:
        return None
    return OptimizerStep(
        # The count of steps, which PyTorch keeps on the CPU, counts where the parameters are on the CPU, too.
        state=sum(int(leaf.nbytes) for leaf in states if leaf.device.type == "meta" or devices == {"cpu"}),
        gradients=sum(int(gradient.nbytes) for gradient in gradients),
        temporaries=0 if all(group.get("fused") for group in optimizer.param_groups) else alive.peak,
    )


def without_state(
    optimizer: torch.optim.Optimizer, group_of: Callable[[dict[str, Any]], dict[str, Any]]
) -> torch.optim.Optimizer:
    """A copy of `optimizer` as it was before its first step, each of its groups replaced by `group_of` it."""
    twin = copy.copy(optimizer)
    twin.state = type(optimizer.state)(dict)
    twin.param_groups = [group_of(group) for group in optimizer.param_groups]
    return twin


def _on_meta(group: Mapping[str, Any], on_gpu: bool) -> dict[str, Any]:
    """A group whose parameters have no memory, and gradients as the backward would give them.

    What a fused step computes, the other two compute as well; where nothing is chosen, PyTorch takes foreach on CUDA
    (`_default_to_fused_or_foreach`, torch/optim/optimizer.py).
    """
    metas = [torch.empty(p.shape, dtype=p.dtype, device="meta", requires_grad=p.requires_grad) for p in group["params"]]
    for meta in metas:
        meta.grad = torch.empty_like(meta) if meta.requires_grad else None
    fused, foreach = group.get("fused"), group.get("foreach")
    foreach = (on_gpu if foreach is None else foreach) and not fused
    return dict(group) | {"params": metas, "fused": None, "foreach": foreach}


class _Alive(TorchDispatchMode):  # type: ignore[misc]
    """Bytes of the storages on "meta" that appear within the context; peak: the most that were alive at once."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._storages = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == "meta":
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._storages:
            self._storages.add(storage._cdata)
            self._live += int(storage.nbytes())
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._forget, storage._cdata, int(storage.nbytes()))

    def _forget(self, storage: int, size: int) -> None:
        self._storages.discard(storage)
        self._live -= size

"""Losses in float16: the loss is scaled so that small gradients do not vanish, and a step that overflows is skipped.

    torch                                            in one graph
    scaler.scale(loss).backward()                    the gradient of the loss is the scale, not 1
    scaler.unscale_(optimizer)                       gradient / scale, at the head of its own update
    scaler.step(optimizer): unless one is inf, nan   new value where all gradients are finite, else the old one
    scaler.update()                                  told what was found

Whether a step is skipped is known when the last gradient is, so it costs what clipping by the global norm costs
(`clipping.py`), and may be had in the same two ways: all gradients are held until then, or forward and backward run
once to look and once more to update.
"""

from __future__ import annotations

from enum import Enum, auto

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

__all__ = ["Scale", "all_finite", "chosen", "record_step", "scale_of", "spread", "unscaled"]


class Scale(Enum):
    """What a graph does about the scale of its loss.

    NONE: there is none; TAKEN: gradients are divided by it; GUARDED: and nothing is written unless all are finite.
    """

    NONE = auto()
    TAKEN = auto()
    GUARDED = auto()


def spread(scale: Tensor, loss: Tensor) -> tuple[Tensor]:
    """The scale as the gradient of `loss` by itself."""
    return (scale.to(loss.dtype).to(loss.device).expand_as(loss).clone(),)


def unscaled(gradient: Tensor, scale: Tensor) -> tuple[Tensor]:
    """As `torch._amp_foreach_non_finite_check_and_unscale_`: by the reciprocal, in float32 at least."""
    inverse = scale.to(gradient.device).double().reciprocal().float()
    return ((gradient * inverse).to(gradient.dtype),)


def all_finite(*gradients: Tensor) -> tuple[Tensor]:
    """Whether no element is infinite or no number."""
    device = gradients[0].device
    return (torch.stack([torch.isfinite(gradient).all().to(device) for gradient in gradients]).all(),)


def chosen(finite: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """`values` are old ones, then as many new ones: the new ones if `finite`."""
    half = len(values) // 2
    pairs = zip(values[:half], values[half:], strict=True)
    return tuple(torch.where(finite.to(old.device), new, old) for old, new in pairs)


def scale_of(scaler: GradScaler, device: torch.device) -> Tensor:
    """The scale of the next step; one element of float32."""
    scale: Tensor = scaler.scale(torch.ones((), device=device))
    return scale


def record_step(scaler: GradScaler, optimizer: Optimizer, finite: bool, device: torch.device) -> None:
    """What `scaler.step` notes of a step and `scaler.update` reads.

    `_per_optimizer_states` is private: there is no other way to tell a scaler what was found without letting it look
    at gradients, and here none is left to look at.
    """
    found = torch.full((), float(not finite), device=device)
    scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"] = {device: found}
    scaler.update()

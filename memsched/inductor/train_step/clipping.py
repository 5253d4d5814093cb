"""Clipping of gradients, exactly, and what it costs.

    coefficient = min(1, max_norm / (norm of all gradients + 1e-6))            torch.nn.utils.clip_grad_norm_

No update may start before the last gradient is known, so gradients cannot die as they are born.  Two exact ways:

- "hold" keeps all gradients until the norm is known: the bytes of all gradients at once, as with torch's function.
- "recompute" runs forward and backward twice.  The first run takes the norms, each gradient dies in its reduction and
  nothing is written; the second is the step, with the coefficient known from its start: the memory of an unclipped
  step, for about twice the time.  Random numbers are drawn twice from the same state, so both see the same gradients.

What a gradient can do by itself costs nothing: clipped by its own norm ("each") or by value, it dies as it is born.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import Enum, StrEnum, auto

import torch
from torch import Tensor

__all__ = [
    "Clip",
    "ClipWay",
    "by_own_norm",
    "by_value",
    "clip_coefficient",
    "multiplied",
    "norm_of_gradients",
    "random_state_kept",
]


class ClipWay(StrEnum):
    """How a norm is clipped: by that of all gradients, held or computed again, or each by its own."""

    HOLD = "hold"
    RECOMPUTE = "recompute"
    EACH = "each"


class Clip(Enum):
    """What a graph does with its gradients before the updates.

    HELD: the norm of all is taken, and each multiplied by the coefficient; GIVEN: the coefficient is an input; EACH:
    each has its own norm; VALUE: every element is clamped.
    """

    NONE = auto()
    HELD = auto()
    GIVEN = auto()
    EACH = auto()
    VALUE = auto()


def norm_of_gradients(*gradients: Tensor) -> tuple[Tensor]:
    """The 2-norm of all gradients as if they were one vector, as `torch.nn.utils.get_total_norm` computes it."""
    device, dtype = gradients[0].device, torch.float32
    for gradient in gradients:
        dtype = torch.promote_types(dtype, gradient.dtype)
    norms = [torch.linalg.vector_norm(gradient, dtype=dtype).to(device) for gradient in gradients]
    return (torch.linalg.vector_norm(torch.stack(norms)),)


def clip_coefficient(total: Tensor, max_norm: Tensor) -> tuple[Tensor]:
    """What every gradient is multiplied by, as in `torch.nn.utils.clip_grads_with_norm_`."""
    return ((max_norm / (total + 1e-6)).clamp(max=1.0),)


def multiplied(gradient: Tensor, coefficient: Tensor) -> tuple[Tensor]:
    """The gradient that its update gets."""
    return (gradient * coefficient.to(gradient.device),)


def by_own_norm(gradient: Tensor, max_norm: Tensor) -> tuple[Tensor]:
    """`torch.nn.utils.clip_grad_norm_` of one parameter."""
    (norm,) = norm_of_gradients(gradient)
    return multiplied(gradient, *clip_coefficient(norm, max_norm.to(norm.device)))


def by_value(gradient: Tensor, limit: Tensor) -> tuple[Tensor]:
    """`torch.nn.utils.clip_grad_value_` of one parameter."""
    limit = limit.to(gradient.device, gradient.dtype)
    return (gradient.clamp(-limit, limit),)


def random_state_kept(devices: Sequence[torch.device]) -> AbstractContextManager[None]:
    """Put the random generators back at the end of the block, so that what comes after draws the same numbers."""
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    kept: AbstractContextManager[None] = torch.random.fork_rng(cuda)
    return kept

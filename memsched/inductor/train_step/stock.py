"""The step as it would be without memsched: torch.compile, autograd and the optimizers, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from memsched.inductor.calls import Batch, call_model
from memsched.inductor.train_step.program import Request

__all__ = ["StockStep"]


@dataclass
class StockStep:
    """What a train step is left to when it cannot be compiled.

    unsynchronized: within it gradients of several processes are not averaged.
    loss: the compiled forward; clip: the largest norm of all gradients, or None; grad_norm: that norm before clipping.
    """

    loss: Callable[..., Tensor]
    optimizers: Sequence[Optimizer]
    clip: float | None
    unsynchronized: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    grad_norm: Tensor | None = None

    def run(self, request: Request, batch: Batch) -> Tensor:
        """Do what `request` asks for; the loss, detached."""
        if request.purpose == "norm":
            return torch.zeros(())  # clipping happens after the one backward
        with self.unsynchronized() if request.purpose == "accumulate" else contextlib.nullcontext():
            loss: Tensor = call_model(self.loss, batch)
            loss.backward()
        if request.purpose == "update":
            if self.clip is not None:
                groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
                self.grad_norm = nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], self.clip)
            for optimizer in self.optimizers:
                optimizer.step()
        return loss.detach()

"""The step as it would be without memsched: torch.compile, autograd and the optimizers, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from memsched.inductor.calls import Batch, call_model
from memsched.inductor.train_step.clipping import ClipWay
from memsched.inductor.train_step.graph import Purpose
from memsched.inductor.train_step.options import StepOptions
from memsched.inductor.train_step.program import Request

__all__ = ["StockStep"]


@dataclass
class StockStep:
    """What a train step is left to when it cannot be compiled.

    unsynchronized: within it gradients of several processes are not averaged.
    loss: the compiled forward; options: of the train step; grad_norm: the norm of all gradients before clipping.
    """

    loss: Callable[..., Tensor]
    optimizers: Sequence[Optimizer]
    options: StepOptions
    unsynchronized: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    grad_norm: Tensor | None = None

    def run(self, request: Request, batch: Batch) -> Tensor:
        """Do what `request` asks for; the loss, detached."""
        if request.purpose is Purpose.LOOK:
            return torch.zeros(())  # clipping happens after the one backward
        scaler = self.options.scaler
        with self.unsynchronized() if request.purpose is Purpose.ACCUMULATE else contextlib.nullcontext():
            loss: Tensor = call_model(self.loss, batch)
            (loss if scaler is None else scaler.scale(loss)).backward()
        if request.purpose is Purpose.UPDATE:
            self._update(scaler)
        return loss.detach()

    def _update(self, scaler: GradScaler | None) -> None:
        if scaler is None:
            self._clip()
            for optimizer in self.optimizers:
                optimizer.step()
            return
        for optimizer in self.optimizers:
            scaler.unscale_(optimizer)
        self._clip()
        for optimizer in self.optimizers:
            scaler.step(optimizer)
        scaler.update()

    def _clip(self) -> None:
        options = self.options
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        parameters = [parameter for group in groups for parameter in group["params"]]
        if options.clip_grad_value is not None:
            nn.utils.clip_grad_value_(parameters, options.clip_grad_value)
        elif options.clip_grad_norm is not None and options.clip == ClipWay.EACH:
            for parameter in parameters:
                nn.utils.clip_grad_norm_([parameter], options.clip_grad_norm)
        elif options.clip_grad_norm is not None:
            self.grad_norm = nn.utils.clip_grad_norm_(parameters, options.clip_grad_norm)

"""The options of a train step: the backend's, Inductor's, and its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch.amp import GradScaler

from memsched.core.sizes import InputError, parse_bytes
from memsched.inductor.options import BackendOptions, split_options
from memsched.inductor.train_step.clipping import Clip, ClipWay
from memsched.inductor.train_step.refusals import Refusal
from memsched.inductor.train_step.scaling import Scale

__all__ = ["StepOptions"]


@dataclass(frozen=True)
class StepOptions:
    """What a train step may do.

    clip_grad_norm: the largest norm of all gradients together, or None; with `clip` "each", that of every parameter's.
    clip: "hold", "recompute" or "each", the ways of `clipping.py`; the first two also decide how a `grad_scaler` knows.
    clip_grad_value: the largest element of a gradient, or None.
    grad_scaler: scales the loss, and skips steps whose gradients are not finite; `scaler.update()` is called.
    batch_shapes: kinds of batches (shapes, types, other values) that may be compiled, each a program of its own.
    process_group: the processes that train copies of the model, where it is not in DistributedDataParallel.
    bucket_size: the most bytes of gradients that are averaged over processes in one call, as a number or "25MiB"; 0
        averages each gradient as it is born, None takes as many as DistributedDataParallel.
    state_dtype: type of optimizer state that the step creates, or None for that of the parameter, as torch does.
    backend, inductor: those of `memsched_backend`.
    """

    clip_grad_norm: float | None = None
    clip: str = "hold"
    clip_grad_value: float | None = None
    grad_scaler: GradScaler | None = None
    state_dtype: torch.dtype | None = None
    batch_shapes: int = 8
    process_group: Any = None
    bucket_size: str | int | None = None
    backend: BackendOptions = field(default_factory=BackendOptions)
    inductor: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("clip_grad_norm", "clip_grad_value"):
            limit = getattr(self, name)
            if limit is not None and not (isinstance(limit, (int, float)) and math.isfinite(limit) and limit > 0):
                raise Refusal(f"option {name} is {limit!r}, not a positive number")
        if self.clip_grad_norm is not None and self.clip_grad_value is not None:
            raise Refusal("options clip_grad_norm and clip_grad_value: gradients are clipped in one way")
        if self.clip not in list(ClipWay):
            raise Refusal(f"option clip is {self.clip!r}, not one of {', '.join(ClipWay)}")
        if self.grad_scaler is not None and not isinstance(self.grad_scaler, GradScaler):
            raise Refusal(f"option grad_scaler is a {type(self.grad_scaler).__name__}, not a torch.amp.GradScaler")
        if type(self.batch_shapes) is not int or self.batch_shapes < 1:
            raise Refusal(f"option batch_shapes is {self.batch_shapes!r}, not a positive number of kinds of batches")
        self._check_processes()
        if self.state_dtype is not None and not getattr(self.state_dtype, "is_floating_point", False):
            raise Refusal(f"option state_dtype is {self.state_dtype!r}, not a floating-point type of torch")

    def _check_processes(self) -> None:
        if self.process_group is not None and not isinstance(self.process_group, torch.distributed.ProcessGroup):
            raise Refusal(f"option process_group is a {type(self.process_group).__name__}, not a ProcessGroup")
        try:
            _ = self.bucket_bytes
        except InputError as error:
            raise Refusal(f"option bucket_size: {error}") from None

    @property
    def scaler(self) -> GradScaler | None:
        """The scaler, if it does something."""
        return self.grad_scaler if self.grad_scaler is not None and self.grad_scaler.is_enabled() else None

    @property
    def looks_first(self) -> bool:
        """Whether forward and backward run once before the step, to know what depends on all gradients."""
        return self.clip == ClipWay.RECOMPUTE and (self.clip_grad_norm is not None or self.scaler is not None)

    @property
    def clipping(self) -> Clip:
        """How the graph of an update clips."""
        if self.clip_grad_value is not None:
            return Clip.VALUE
        if self.clip_grad_norm is None:
            return Clip.NONE
        ways = {ClipWay.HOLD: Clip.HELD, ClipWay.RECOMPUTE: Clip.GIVEN, ClipWay.EACH: Clip.EACH}
        return ways[ClipWay(self.clip)]

    @property
    def scaling(self) -> Scale:
        """What the graph of an update does about the scale of the loss."""
        if self.scaler is None:
            return Scale.NONE
        return Scale.TAKEN if self.looks_first else Scale.GUARDED

    @property
    def bucket_bytes(self) -> int | None:
        """`bucket_size` in bytes."""
        return None if self.bucket_size is None else parse_bytes(self.bucket_size)

    @classmethod
    def read(cls, options: Mapping[str, Any] | None) -> StepOptions:
        """The options in `options`, each handed to whom it belongs.

        Raises:
            ValueError: a name that nobody knows, or a value that does not fit; one line.
        """
        given = dict(options or {})
        names = {entry.name for entry in fields(cls)} - {"backend", "inductor"}
        own = {name: given.pop(name) for name in names if name in given}
        backend, inductor = split_options(given)
        return cls(**own, backend=backend, inductor=inductor)

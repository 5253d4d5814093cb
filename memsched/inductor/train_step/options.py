"""The options of a train step: the backend's, Inductor's, and its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from memsched.core.sizes import InputError, parse_bytes
from memsched.inductor.options import BackendOptions, split_options
from memsched.inductor.train_step.clipping import WAYS
from memsched.inductor.train_step.refusals import Refusal

__all__ = ["StepOptions"]


@dataclass(frozen=True)
class StepOptions:
    """What a train step may do.

    clip_grad_norm: the largest norm of all gradients together, or None.
    clip: "hold" or "recompute", the two ways of `train_step_clipping`.
    batch_shapes: kinds of batches (shapes, types, other values) that may be compiled, each a program of its own.
    process_group: the processes that train copies of the model, where it is not in DistributedDataParallel.
    bucket_size: the most bytes of gradients that are averaged over processes in one call, as a number or "25MiB"; 0
        averages each gradient as it is born, None takes as many as DistributedDataParallel.
    state_dtype: type of optimizer state that the step creates, or None for that of the parameter, as torch does.
    backend, inductor: those of `memsched_backend`.
    """

    clip_grad_norm: float | None = None
    clip: str = "hold"
    state_dtype: torch.dtype | None = None
    batch_shapes: int = 8
    process_group: Any = None
    bucket_size: str | int | None = None
    backend: BackendOptions = field(default_factory=BackendOptions)
    inductor: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        norm = self.clip_grad_norm
        if norm is not None and not (isinstance(norm, (int, float)) and math.isfinite(norm) and norm > 0):
            raise Refusal(f"option clip_grad_norm is {norm!r}, not a positive number")
        if self.clip not in WAYS:
            raise Refusal(f"option clip is {self.clip!r}, not one of {', '.join(WAYS)}")
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
        if given.pop("grad_scaler", None) is not None:
            raise Refusal("GradScaler may skip a step after all gradients are known; use bfloat16 autocast without it")
        names = {entry.name for entry in fields(cls)} - {"backend", "inductor"}
        own = {name: given.pop(name) for name in names if name in given}
        backend, inductor = split_options(given)
        return cls(**own, backend=backend, inductor=inductor)

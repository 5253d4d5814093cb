"""An update of one of torch's optimizers as a function of tensors, one parameter at a time.

A compiled step needs each update as a pure function, in which everything that changes between steps is a tensor:

    scalars(group, taken)                      Python floats, computed as torch computes them (double precision)
          │  copied into one small tensor: a new learning rate, momentum or step count compiles nothing
          ▼
    update(param, gradient, state, scalars) -> new param, new state

The formulas are those of torch's single-tensor implementations, operation by operation;
`tests/inductor/train_step/test_rules.py` holds them to torch's own results.  They are written out, because torch's take
their scalars as Python numbers, which a graph would keep as constants, and because those functions are private.  What
decides the *form* of an update (is there momentum?  is it Nesterov's?) is its `structure`, and may be a constant.

State stays what torch makes it: the same names, shapes and types in `optimizer.state`, created here only when it is
missing.  Parameters of 16 bits are updated in float32 and rounded once, at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Group", "Rule", "State", "Structure", "work_dtype", "zeros_like"]

Group = Mapping[str, Any]
State = dict[str, Tensor]
Structure = tuple[Any, ...]
"""Hashable values."""


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a parameter of `dtype` is updated."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Rule(ABC):
    """How one optimizer of torch updates one parameter."""

    counts_steps = True
    """Whether torch keeps the number of steps taken in `state["step"]`."""

    @abstractmethod
    def structure(self, group: Group) -> Structure:
        """What decides the form of the update."""

    @abstractmethod
    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        """The tensors that torch would create at the first step, without the step count."""

    @abstractmethod
    def scalars(self, group: Group, taken: int, dtype: torch.dtype) -> list[float]:
        """The numbers of the next step, after `taken` steps, for parameters of `dtype`."""

    @abstractmethod
    def update(
        self, structure: Structure, param: Tensor, gradient: Tensor, state: State, scalars: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        """The parameter and its state after the step; all arguments in the type of `work_dtype`."""


def zeros_like(param: Tensor, dtype: torch.dtype) -> Tensor:
    """State of the shape and the strides of `param`."""
    return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)

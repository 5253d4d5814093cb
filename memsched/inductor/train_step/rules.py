"""The updates of torch's optimizers as functions of tensors, one parameter at a time.

A compiled step needs each update as a pure function, in which everything that changes between steps is a tensor:

    scalars(group, taken)                      Python floats, computed as torch computes them (double precision)
          │  copied into one small tensor: a new learning rate, momentum or step count compiles nothing
          ▼
    update(param, gradient, state, scalars) -> new param, new state

The formulas are those of torch's single-tensor implementations (torch/optim/sgd.py, adam.py, _adafactor.py), operation
by operation; `tests/inductor/train_step/test_rules.py` holds them to torch's own results.  They are written out,
because torch's take their scalars as Python numbers, which a graph would keep as constants, and because those functions
are private. What decides the *form* of an update (is there momentum?  is it Nesterov's?) is its `structure`, and may be
a constant.

State stays what torch makes it: the same names, shapes and types in `optimizer.state`, created here only when it is
missing.  Parameters of 16 bits are updated in float32 and rounded once, at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer

__all__ = ["RULES", "Rule", "rule_of", "work_dtype"]

Group = Mapping[str, Any]
State = dict[str, Tensor]
Structure = tuple[bool, ...]


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


class SGDRule(Rule):
    """torch/optim/sgd.py, `_single_tensor_sgd`."""

    counts_steps = False

    def structure(self, group: Group) -> Structure:
        return group["momentum"] != 0, group["nesterov"], group["weight_decay"] != 0, group["maximize"]

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        return {"momentum_buffer": _zeros_like(param, dtype)} if group["momentum"] != 0 else {}

    def scalars(self, group: Group, taken: int, dtype: torch.dtype) -> list[float]:
        # torch's first buffer is the gradient itself, undampened: zero times the momentum, plus one gradient.
        share = 1 - group["dampening"] if taken else 1.0
        return [-float(group["lr"]), float(group["weight_decay"]), group["momentum"], share]

    def update(
        self, structure: Structure, param: Tensor, gradient: Tensor, state: State, scalars: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        has_momentum, nesterov, decays, maximize = structure
        minus_lr, weight_decay, momentum, share = scalars
        gradient = -gradient if maximize else gradient
        if decays:
            gradient = gradient + param * weight_decay
        if has_momentum:
            buffer = state["momentum_buffer"] * momentum + gradient * share
            state = {"momentum_buffer": buffer}
            gradient = gradient + buffer * momentum if nesterov else buffer
        return param + gradient * minus_lr, state


class AdamRule(Rule):
    """torch/optim/adam.py, `_single_tensor_adam`; AdamW is Adam with `decoupled_weight_decay`."""

    def structure(self, group: Group) -> Structure:
        decoupled = group.get("decoupled_weight_decay", False)
        return group["amsgrad"], decoupled, group["weight_decay"] != 0, group["maximize"]

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        return {name: _zeros_like(param, dtype) for name in names[: 3 if group["amsgrad"] else 2]}

    def scalars(self, group: Group, taken: int, dtype: torch.dtype) -> list[float]:
        lr, weight_decay, (beta1, beta2) = float(group["lr"]), group["weight_decay"], map(float, group["betas"])
        correction1, correction2 = 1 - beta1 ** (taken + 1), 1 - beta2 ** (taken + 1)
        return [
            -lr / correction1,
            correction2**0.5,
            1 - beta1,
            beta2,
            1 - beta2,
            group["eps"],
            weight_decay,
            1 - lr * weight_decay,
        ]

    def update(
        self, structure: Structure, param: Tensor, gradient: Tensor, state: State, scalars: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        amsgrad, decoupled, decays, maximize = structure
        minus_size, root_correction, weight1, beta2, weight2, eps, weight_decay, keep = scalars
        gradient = -gradient if maximize else gradient
        if decays and decoupled:
            param = param * keep
        elif decays:
            gradient = gradient + param * weight_decay
        average = torch.lerp(state["exp_avg"], gradient, weight1)
        square = state["exp_avg_sq"] * beta2 + gradient * gradient * weight2
        new_state = {"exp_avg": average, "exp_avg_sq": square}
        if amsgrad:
            square = new_state["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], square)
        denominator = square.sqrt() / root_correction + eps
        return param + minus_size * (average / denominator), new_state


class AdafactorRule(Rule):
    """torch/optim/_adafactor.py, `_single_tensor_adafactor`; its `.item()`s stay tensors of one element."""

    def structure(self, group: Group) -> Structure:
        return group["weight_decay"] != 0, group["maximize"]

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        if param.dim() <= 1:
            return {"variance": _zeros_like(param, dtype)}
        shape = list(param.shape)
        rows, columns = [*shape[:-1], 1], [*shape[:-2], 1, shape[-1]]
        return {"row_var": param.new_zeros(rows, dtype=dtype), "col_var": param.new_zeros(columns, dtype=dtype)}

    def scalars(self, group: Group, taken: int, dtype: torch.dtype) -> list[float]:
        lr, (eps1, eps2), step = float(group["lr"]), group["eps"], float(taken + 1)
        eps1 = torch.finfo(dtype).eps if eps1 is None else eps1
        rho = min(lr, 1 / step**0.5)
        return [step ** group["beta2_decay"], rho, 1 - lr * group["weight_decay"], eps1, eps1 * eps1, eps2, group["d"]]

    def update(
        self, structure: Structure, param: Tensor, gradient: Tensor, state: State, scalars: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        decays, maximize = structure
        weight, rho, keep, eps1, eps1_squared, eps2, clip = scalars
        gradient = -gradient if maximize else gradient
        root_size = param.numel() ** 0.5
        alpha = torch.maximum(eps2, torch.linalg.vector_norm(param) / root_size) * rho
        if decays:
            param = param * keep
        if gradient.dim() > 1:
            row_mean = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True).square() / gradient.size(-1)
            col_mean = torch.linalg.vector_norm(gradient, dim=-2, keepdim=True).square() / gradient.size(-2)
            row, col = (
                torch.lerp(state["row_var"], row_mean, weight),
                torch.lerp(state["col_var"], col_mean, weight),
            )
            state = {"row_var": row, "col_var": col}
            # The product of a column and a row, without the matrix product that torch's in-place division needs.
            estimate = row * col / torch.maximum(row.mean(dim=-2, keepdim=True), eps1)
        else:
            estimate = torch.lerp(state["variance"], gradient * gradient, weight)
            state = {"variance": estimate}
        update = torch.maximum(estimate, eps1_squared).rsqrt() * gradient
        denominator = (torch.linalg.vector_norm(update) / (root_size * clip)).clamp(min=1.0)
        return param - update * (alpha / denominator), state


RULES: dict[type[Optimizer], Rule] = {SGD: SGDRule(), Adam: AdamRule(), AdamW: AdamRule(), Adafactor: AdafactorRule()}
"""By the exact type: a subclass may update in a way of its own."""


def rule_of(optimizer: Optimizer) -> Rule | None:
    """The rule of `optimizer`, if there is one."""
    return RULES.get(type(optimizer))


def _zeros_like(param: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)

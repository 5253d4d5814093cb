"""SGD, and Muon, whose momentum is made orthogonal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from memsched.inductor.train_step.rules.rule import Group, Rule, State, Structure, zeros_like

__all__ = ["MuonRule", "SGDRule"]


class SGDRule(Rule):
    """torch/optim/sgd.py, `_single_tensor_sgd`."""

    counts_steps = False

    def structure(self, group: Group) -> Structure:
        return group["momentum"] != 0, group["nesterov"], group["weight_decay"] != 0, group["maximize"]

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        return {"momentum_buffer": zeros_like(param, dtype)} if group["momentum"] != 0 else {}

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


class MuonRule(Rule):
    """torch/optim/_muon.py, `_single_tensor_muon`: a matrix is moved along its momentum, made orthogonal."""

    counts_steps = False

    def structure(self, group: Group) -> Structure:
        iteration = (group["ns_steps"], tuple(group["ns_coefficients"]), group["eps"])
        return group["nesterov"], group["adjust_lr_fn"], *iteration

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        return {"momentum_buffer": zeros_like(param, dtype)}

    def scalars(self, group: Group, taken: int, dtype: torch.dtype) -> list[float]:
        lr = float(group["lr"])
        return [lr, 1 - lr * group["weight_decay"], 1 - group["momentum"], group["momentum"]]

    def update(
        self, structure: Structure, param: Tensor, gradient: Tensor, state: State, scalars: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        nesterov, adjust, steps, coefficients, eps = structure
        lr, keep, weight, momentum = scalars
        buffer = torch.lerp(state["momentum_buffer"], gradient, weight)
        direction = torch.lerp(gradient, buffer, momentum) if nesterov else buffer
        direction = _orthogonal(direction, coefficients, steps, eps).to(param.dtype)
        return param * keep - direction * (lr * _share_of_shape(adjust, param.shape)), {"momentum_buffer": buffer}


def _orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """`_zeropower_via_newtonschulz`: about the nearest orthogonal matrix, in bfloat16."""
    a, b, c = coefficients
    tall = matrix.size(0) > matrix.size(1)
    found = matrix.bfloat16().T if tall else matrix.bfloat16()
    found = found / found.norm().clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found


def _share_of_shape(adjust: str | None, shape: Sequence[int]) -> float:
    """`_adjust_lr`, without the learning rate."""
    rows, columns = shape
    if adjust in (None, "original"):
        return math.sqrt(max(1, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns)) if adjust == "match_rms_adamw" else 1.0

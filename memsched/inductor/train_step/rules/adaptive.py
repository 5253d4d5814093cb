"""Step sizes by the size of past gradients: Adam and its kin, RMSprop, Adagrad."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memsched.inductor.train_step.rules.rule import Group, Rule, State, Structure, zeros_like

__all__ = ["AdagradRule", "AdamRule", "NAdamRule", "RAdamRule", "RMSpropRule"]


class AdamRule(Rule):
    """torch/optim/adam.py, `_single_tensor_adam`; AdamW is Adam with `decoupled_weight_decay`."""

    def structure(self, group: Group) -> Structure:
        decoupled = group.get("decoupled_weight_decay", False)
        return group["amsgrad"], decoupled, group["weight_decay"] != 0, group["maximize"]

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        return {name: zeros_like(param, dtype) for name in names[: 3 if group["amsgrad"] else 2]}

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
        amsgrad = structure[0]
        minus_size, root_correction, weight1, beta2, weight2, eps, weight_decay, keep = scalars
        param, gradient = _decayed(param, gradient, structure[1:], weight_decay, keep)
        average = torch.lerp(state["exp_avg"], gradient, weight1)
        square = state["exp_avg_sq"] * beta2 + gradient * gradient * weight2
        new_state = {"exp_avg": average, "exp_avg_sq": square}
        if amsgrad:
            square = new_state["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], square)
        denominator = square.sqrt() / root_correction + eps
        return param + minus_size * (average / denominator), new_state


class NAdamRule(Rule):
    """torch/optim/nadam.py, `_single_tensor_nadam`."""

    def structure(self, group: Group) -> Structure:
        return group["decoupled_weight_decay"], group["weight_decay"] != 0, group["maximize"]

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        device = param.device if group["capturable"] else "cpu"
        product = torch.ones((), dtype=torch.float32, device=device)
        return {"mu_product": product, **{name: zeros_like(param, dtype) for name in ("exp_avg", "exp_avg_sq")}}

    def scalars(self, group: Group, taken: int, dtype: torch.dtype) -> list[float]:
        lr, decay, (beta1, beta2) = float(group["lr"]), group["weight_decay"], map(float, group["betas"])
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (step * group["momentum_decay"])) for step in (taken + 1, taken + 2))
        correction = 1 - beta2 ** (taken + 1)
        return [lr, decay, 1 - lr * decay, 1 - beta1, beta2, 1 - beta2, 1 / correction, group["eps"], mu, mu_next]

    def update(
        self, structure: Structure, param: Tensor, gradient: Tensor, state: State, scalars: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        lr, decay, keep, weight1, beta2, weight2, inverse_correction, eps, mu, mu_next = scalars
        param, gradient = _decayed(param, gradient, structure, decay, keep)
        # torch keeps the product in float32, whatever the parameter is.
        product = (state["mu_product"] * mu).to(torch.float32).to(param.dtype)
        average = torch.lerp(state["exp_avg"], gradient, weight1)
        square = state["exp_avg_sq"] * beta2 + gradient * gradient * weight2
        denominator = (square * inverse_correction).sqrt() + eps
        of_gradient, of_average = lr * (1 - mu) / (1 - product), lr * mu_next / (1 - product * mu_next)
        param = param - of_gradient * (gradient / denominator) - of_average * (average / denominator)
        return param, {"mu_product": product, "exp_avg": average, "exp_avg_sq": square}


class RAdamRule(Rule):
    """torch/optim/radam.py, `_single_tensor_radam`: without second moments while too few gradients were seen."""

    def structure(self, group: Group) -> Structure:
        return group["decoupled_weight_decay"], group["weight_decay"] != 0, group["maximize"]

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        return {name: zeros_like(param, dtype) for name in ("exp_avg", "exp_avg_sq")}

    def scalars(self, group: Group, taken: int, dtype: torch.dtype) -> list[float]:
        step, lr, decay, (beta1, beta2) = taken + 1, float(group["lr"]), group["weight_decay"], group["betas"]
        correction1, correction2 = 1 - beta1**step, 1 - beta2**step
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * step * beta2**step / correction2
        adapts = length > 5
        rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length) if adapts else 0.0
        root = (rectified * correction2) ** 0.5
        return [lr / correction1, root, float(adapts), decay, 1 - lr * decay, 1 - beta1, beta2, 1 - beta2, group["eps"]]

    def update(
        self, structure: Structure, param: Tensor, gradient: Tensor, state: State, scalars: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        size, root, adapts, decay, keep, weight1, beta2, weight2, eps = scalars
        param, gradient = _decayed(param, gradient, structure, decay, keep)
        average = torch.lerp(state["exp_avg"], gradient, weight1)
        square = state["exp_avg_sq"] * beta2 + gradient * gradient * weight2
        factor = torch.where(adapts > 0, root / (square.sqrt() + eps), 1.0)
        return param - average * size * factor, {"exp_avg": average, "exp_avg_sq": square}


class RMSpropRule(Rule):
    """torch/optim/rmsprop.py, `_single_tensor_rmsprop`."""

    def structure(self, group: Group) -> Structure:
        return group["momentum"] > 0, group["centered"], group["weight_decay"] != 0, group["maximize"]

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        has_momentum, centered, *_ = self.structure(group)
        names = ["square_avg", *["momentum_buffer"] * has_momentum, *["grad_avg"] * centered]
        return {name: zeros_like(param, dtype) for name in names}

    def scalars(self, group: Group, taken: int, dtype: torch.dtype) -> list[float]:
        alpha = group["alpha"]
        return [float(group["lr"]), group["weight_decay"], alpha, 1 - alpha, group["eps"], group["momentum"]]

    def update(
        self, structure: Structure, param: Tensor, gradient: Tensor, state: State, scalars: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        has_momentum, centered, decays, maximize = structure
        lr, decay, alpha, weight, eps, momentum = scalars
        gradient = -gradient if maximize else gradient
        if decays:
            gradient = gradient + param * decay
        square = state["square_avg"] * alpha + gradient * gradient * weight
        new_state = {"square_avg": square}
        if centered:
            average = new_state["grad_avg"] = torch.lerp(state["grad_avg"], gradient, weight)
            square = square - average * average
        step = gradient / (square.sqrt() + eps)
        if has_momentum:
            step = new_state["momentum_buffer"] = state["momentum_buffer"] * momentum + step
        return param - step * lr, new_state


class AdagradRule(Rule):
    """torch/optim/adagrad.py, `_single_tensor_adagrad`."""

    def structure(self, group: Group) -> Structure:
        return group["weight_decay"] != 0, group["maximize"]

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        return {"sum": zeros_like(param, dtype).fill_(group["initial_accumulator_value"])}

    def scalars(self, group: Group, taken: int, dtype: torch.dtype) -> list[float]:
        return [float(group["lr"]) / (1 + taken * group["lr_decay"]), group["weight_decay"], group["eps"]]

    def update(
        self, structure: Structure, param: Tensor, gradient: Tensor, state: State, scalars: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        decays, maximize = structure
        size, decay, eps = scalars
        gradient = -gradient if maximize else gradient
        if decays:
            gradient = gradient + param * decay
        total = state["sum"] + gradient * gradient
        return param - gradient / (total.sqrt() + eps) * size, {"sum": total}


def _decayed(
    param: Tensor, gradient: Tensor, structure: Structure, decay: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor]:
    """Parameter and gradient, with the decay in one of them.

    structure: whether it goes into the parameter, whether there is any, and whether the loss is to be maximized.
    """
    decoupled, decays, maximize = structure
    gradient = -gradient if maximize else gradient
    if decays and decoupled:
        return param * keep, gradient
    return param, gradient + param * decay if decays else gradient

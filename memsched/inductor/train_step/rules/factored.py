"""Adafactor: second moments kept as a row and a column."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memsched.inductor.train_step.rules.rule import Group, Rule, State, Structure, zeros_like

__all__ = ["AdafactorRule"]


class AdafactorRule(Rule):
    """torch/optim/_adafactor.py, `_single_tensor_adafactor`; its `.item()`s stay tensors of one element."""

    def structure(self, group: Group) -> Structure:
        return group["weight_decay"] != 0, group["maximize"]

    def new_state(self, param: Tensor, group: Group, dtype: torch.dtype) -> State:
        if param.dim() <= 1:
            return {"variance": zeros_like(param, dtype)}
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

"""Frozen weights in float32, cast to bfloat16 for the product of the forward and of the backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowPrecisionLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return (x.to(torch.bfloat16) @ weight.to(torch.bfloat16).t()).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return (gradient.to(torch.bfloat16) @ weight.to(torch.bfloat16)).float(), None


class Net(nn.Module):
    def __init__(self, width: int = 256, layers: int = 4) -> None:
        super().__init__()

        def frozen(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns) / columns**0.5, requires_grad=False)

        self.ups = nn.ParameterList(frozen(4 * width, width) for _ in range(layers))
        self.downs = nn.ParameterList(frozen(width, 4 * width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x = x + LowPrecisionLinear.apply(F.gelu(LowPrecisionLinear.apply(norm(x), up)), down)
        return x.square().mean()


def step(layers: int = 4) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Net(layers=layers), (torch.randn(2, 32, 256),)

"""Residual convolutions whose skip is the identity: their sums are inlined into every later reader."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, always: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inside, outside, 3, padding=1)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside or always else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolution(F.relu(x))
        return h + (x if self.skip is None else self.skip(x))


class Net(nn.Module):
    def __init__(self, always: bool, channels: int = 16) -> None:
        super().__init__()
        widths = [3, channels, channels, channels, channels, 3]
        pairs = itertools.pairwise(widths)
        self.blocks = nn.Sequential(*(Residual(inside, outside, always) for inside, outside in pairs))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x).mean()


def step(always: bool = False) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Net(always), (torch.randn(2, 3, 96, 96),)

"""Convolutions of every sort, norms and pools in random order."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = ["RandomImages"]

_LAYERS = ["conv", "conv", "point", "grouped", "depth", "dilated", "back", "strided", "pool", "batch", "group"]
_KINDS = [*_LAYERS, "gelu", "add", "mul", "cat", "gate"]


class RandomImages(nn.Module):
    """`seed` decides the operators and their operands; every value is an image of the same size."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.channels = channels = draw.choice([16, 32])
        steps = draw.randint(4, 10)
        self.steps = [(draw.choice(_KINDS), draw.random(), draw.random()) for _ in range(steps)]
        self.layers = nn.ModuleList(self._layer(kind, channels) for kind, *_ in self.steps)
        self.checkpointed = draw.random() < 0.4
        if draw.random() < 0.5:
            self.to(memory_format=torch.channels_last)

    @staticmethod
    def _layer(kind: str, channels: int) -> nn.Module:
        layers: dict[str, Callable[[], nn.Module]] = {
            "conv": lambda: nn.Conv2d(channels, channels, 3, padding=1),
            "point": lambda: nn.Conv2d(channels, channels, 1),
            "grouped": lambda: nn.Conv2d(channels, channels, 3, padding=1, groups=4),
            "depth": lambda: nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            "dilated": lambda: nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
            "back": lambda: nn.ConvTranspose2d(channels, channels, 3, padding=1),
            "strided": lambda: nn.Sequential(nn.Conv2d(channels, channels, 4, 2, 1), nn.Upsample(scale_factor=2)),
            "pool": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2)),
            "batch": lambda: nn.BatchNorm2d(channels),
            "group": lambda: nn.GroupNorm(4, channels),
            "cat": lambda: nn.Conv2d(2 * channels, channels, 1),
        }
        return layers.get(kind, nn.Identity)()

    def body(self, x: Tensor) -> Tensor:
        values = [x, x * 2]
        for (kind, first, second), layer in zip(self.steps, self.layers, strict=True):
            p, q = values[int(first * len(values))], values[int(second * len(values))]
            values.append(self.operator(kind, layer, p, q))
        return sum((value.mean() * (at % 3 + 1) for at, value in enumerate(values[-3:])), torch.zeros(()))

    @staticmethod
    def operator(kind: str, layer: nn.Module, p: Tensor, q: Tensor) -> Tensor:
        results: dict[str, Callable[[], Tensor]] = {
            "gelu": lambda: F.gelu(p),
            "add": lambda: p + q,
            "mul": lambda: p * torch.sigmoid(q),
            "cat": lambda: layer(torch.cat([p, q], 1)),
            "gate": lambda: p * q.mean((2, 3), keepdim=True).sigmoid(),
        }
        return results.get(kind, lambda: layer(p))()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False) if self.checkpointed else self.body(x)

"""Elementwise operators, reductions, norms and products in random order: loops that only seem to fit each other."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

KINDS = ["mm", "mm", "add", "mul", "gelu", "red", "cat", "bcast", "ln", "softmax", "sub", "inpl"]


class RandomModel(nn.Module):
    """`seed` decides the operators and their operands."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.width = draw.choice([64, 128])
        weights = [nn.Parameter(torch.randn(self.width, self.width) * 0.05) for _ in range(3)]
        self.weights = nn.ParameterList(weights)
        steps = draw.randint(6, 18)
        self.steps = [(draw.choice(KINDS), draw.random(), draw.random(), draw.randrange(3)) for _ in range(steps)]
        self.checkpointed = draw.random() < 0.4

    def body(self, x: Tensor) -> Tensor:
        values = [x, x * 2]
        for kind, first, second, weight in self.steps:
            p, q = values[int(first * len(values))], values[int(second * len(values))]
            values.append(self.operator(kind, p, q, self.weights[weight]))
        return sum((value.sum() * (at % 3 + 1) for at, value in enumerate(values[-3:])), torch.zeros(()))

    def operator(self, kind: str, p: Tensor, q: Tensor, weight: Tensor) -> Tensor:
        results = {
            "mm": lambda: p @ weight,
            "add": lambda: p + q,
            "sub": lambda: p - q * 0.5,
            "mul": lambda: p * torch.sigmoid(q),
            "gelu": lambda: F.gelu(p),
            "red": lambda: q * p.mean(-1, keepdim=True),
            "cat": lambda: torch.cat([p, q], -1)[..., ::2].contiguous(),
            "bcast": lambda: p + q.sum(0, keepdim=True),
            "ln": lambda: F.layer_norm(p, (self.width,)),
            "softmax": lambda: torch.softmax(p, -1) * q,
            "inpl": lambda: (p * 1.5).clone().mul_(q.detach()),
        }
        return results[kind]()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False) if self.checkpointed else self.body(x)


def step(seed: int = 1041) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    model = RandomModel(seed)
    return model, (torch.randn(64, model.width, requires_grad=True),)

"""Rotary positions as complex numbers, the form of Meta's Llama: views of views of complex tensors, and checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.keys, self.values, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def rotated(self, t: Tensor, rotations: Tensor) -> Tensor:
        pairs = torch.view_as_complex(t.float().reshape(*t.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * rotations.view(1, t.shape[1], 1, -1)).flatten(3).type_as(t)

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        q, k, v = (one(x).unflatten(-1, (self.heads, -1)) for one in (self.queries, self.keys, self.values))
        q, k = self.rotated(q, rotations), self.rotated(k, rotations)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        weights = F.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.first, self.second = nn.RMSNorm(width), nn.RMSNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width, bias=False), nn.Linear(3 * width, width, bias=False)

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        x = x + self.attention(self.first(x), rotations)
        return x + self.down(F.silu(self.up(self.second(x))))


class LanguageModel(nn.Module):
    def __init__(
        self, vocabulary: int = 256, width: int = 64, heads: int = 4, layers: int = 2, length: int = 64
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(2))
        self.head = nn.Linear(width, vocabulary, bias=False)
        angles = torch.outer(torch.arange(length), 1 / 10000 ** (torch.arange(0, width // heads, 2) * heads / width))
        self.register_buffer("rotations", torch.polar(torch.ones_like(angles), angles))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = checkpoint(block, x, self.rotations, use_reentrant=False)
        return F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())


def step() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    tokens = torch.randint(256, (4, 64))
    return LanguageModel(), (tokens, tokens.roll(1, 1))

"""Models that nobody chose: operators in random order, so that loops, copies and scratch meet as they may anywhere.

A model is a list of operators, each of which reads one or two of the values before it:

    x ──> mm ──> gelu ──> add ──> ...  the last three are summed up
    └────────────────────^

Each family has operators of its own, beside the plain ones: what people train in half precision, views and writes in
place, images.  The family and the seed decide everything.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bench.models.random_images import RandomImages

__all__ = ["Family", "RandomModel", "step"]


class Family(Enum):
    """A kind of models."""

    FLOAT32 = "float32"
    """Elementwise operators, reductions, norms and products."""
    BFLOAT16 = "bfloat16"
    """The same with parameters and batch in bfloat16, and attention."""
    AUTOCAST = "autocast"
    """Parameters in float32, products in bfloat16 under autocast."""
    VIEWS = "views"
    """Slices, writes in place, gathers, complex rotations, dropout, attention."""
    IMAGES = "images"
    """Convolutions of every sort, norms and pools, on images of 16 channels."""


_PLAIN = ["mm", "mm", "add", "mul", "gelu", "red", "cat", "bcast", "ln", "softmax", "sub", "inpl"]
_VIEWS = ["halves", "slice", "turned", "gather", "rotate", "dropout", "attention", "where", "cumsum", "roll", "heads"]
_KINDS = {
    Family.FLOAT32: _PLAIN,
    Family.BFLOAT16: [*_PLAIN, "attention"],
    Family.AUTOCAST: [*_PLAIN, "attention"],
    Family.VIEWS: [*_PLAIN, *_VIEWS],
}


class RandomModel(nn.Module):
    """`seed` decides the operators and their operands."""

    def __init__(self, seed: int, family: Family = Family.FLOAT32) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.autocast = family is Family.AUTOCAST
        self.width = draw.choice([64, 128])
        weights = [nn.Parameter(torch.randn(self.width, self.width) * 0.05) for _ in range(3)]
        self.weights = nn.ParameterList(weights)
        steps = draw.randint(6, 18)
        self.steps = [
            (draw.choice(_KINDS[family]), draw.random(), draw.random(), draw.randrange(3)) for _ in range(steps)
        ]
        self.checkpointed = draw.random() < 0.4

    def body(self, x: Tensor) -> Tensor:
        values = [x, x * 2]
        for kind, first, second, weight in self.steps:
            p, q = values[int(first * len(values))], values[int(second * len(values))]
            values.append(self.operator(kind, p, q, self.weights[weight]))
        return sum((value.sum() * (at % 3 + 1) for at, value in enumerate(values[-3:])), torch.zeros(()))

    def operator(self, kind: str, p: Tensor, q: Tensor, weight: Tensor) -> Tensor:
        results: dict[str, Callable[[], Tensor]] = {
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
            "halves": lambda: torch.cat(p.chunk(2, -1)[::-1], -1),
            "slice": lambda: _written_in_part(p, q),
            "turned": lambda: q @ (p.t() @ q),
            "gather": lambda: p[torch.arange(p.size(0), device=p.device).flip(0)] + q,
            "rotate": lambda: _rotated(p),
            "dropout": lambda: F.dropout(p, 0.25),
            "attention": lambda: _attention(p, q),
            "where": lambda: torch.where(p > q, p, q * 0.1),
            "cumsum": lambda: p.cumsum(0) * 0.1,
            "roll": lambda: p.roll(1, 0) + q.roll(-1, 1),
            "heads": lambda: torch.einsum("thd,shd->ths", _heads(p), _heads(q))[..., : self.width // 4].reshape(
                p.shape
            ),
        }
        return results[kind]()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return checkpoint(self.body, x, use_reentrant=False) if self.checkpointed else self.body(x)


def _heads(p: Tensor) -> Tensor:
    """(tokens, 4 heads, width / 4)."""
    return p.reshape(p.size(0), 4, -1)


def _attention(p: Tensor, q: Tensor) -> Tensor:
    heads = [_heads(value).transpose(0, 1).unsqueeze(0) for value in (p, q, q)]
    return F.scaled_dot_product_attention(*heads, is_causal=True).squeeze(0).transpose(0, 1).reshape(p.shape)


def _written_in_part(p: Tensor, q: Tensor) -> Tensor:
    whole = p.clone()
    whole[:, : p.size(1) // 2].mul_(0.5)
    whole[1:] = q[:-1] + whole[:-1]
    return whole


def _rotated(p: Tensor) -> Tensor:
    """A rotary embedding as Meta writes it, in complex numbers."""
    pairs = torch.view_as_complex(p.float().reshape(p.size(0), -1, 2))
    angles = torch.arange(p.size(0), device=p.device)[:, None] * torch.ones(1, pairs.size(1), device=p.device)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(1).to(p.dtype)


def step(seed: int = 1041, family: Family = Family.FLOAT32) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    if family is Family.IMAGES:
        images = RandomImages(seed)
        return images, (torch.randn(2, images.channels, 16, 16, requires_grad=True),)
    model = RandomModel(seed, family)
    batch = torch.randn(64, model.width, requires_grad=True)
    if family is Family.BFLOAT16:
        model, batch = model.to(torch.bfloat16), batch.detach().to(torch.bfloat16).requires_grad_()
    return model, (batch,)

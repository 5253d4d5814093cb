"""The modules of the zoo: small networks, each with one feature that a planner could get wrong (see `zoo.py`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.models.layers import Block, FeedForward
from bench.models.policies import checkpointed

__all__ = [
    "GPT",
    "Branches",
    "CapacityRouting",
    "ConvNorm",
    "DenseCell",
    "DroppedInPairs",
    "ExpertChoice",
    "FusedAttention",
    "Looped",
    "MixedTypes",
    "Nested",
    "PreferencePairs",
    "RandomWired",
    "Recurrent",
    "ResNet",
    "Siamese",
    "UNet",
]


class ConvNorm(nn.Sequential):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())


class ResNet(nn.Module):
    """Two residual blocks with BatchNorm statistics, and pooling between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 8)
        self.blocks = nn.ModuleList(nn.Sequential(ConvNorm(8, 8), ConvNorm(8, 8)) for _ in range(2))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.max_pool2d(F.relu(x + block(x)), 2)
        return self.head(x.mean((2, 3))).logsumexp(-1).sum()


class UNet(nn.Module):
    """Down, up, and a concatenation across."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([ConvNorm(3, 8), ConvNorm(8, 16), ConvNorm(16, 16)])
        self.up = nn.ModuleList([ConvNorm(32, 8), ConvNorm(16, 4)])

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](F.avg_pool2d(first, 2))
        x = self.down[2](F.avg_pool2d(second, 2))
        x = self.up[0](torch.cat([F.interpolate(x, scale_factor=2), second], 1))
        return self.up[1](torch.cat([F.interpolate(x, scale_factor=2), first], 1)).square().mean()


class DenseCell(nn.Module):
    """Every layer reads the outputs of all layers before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNorm(4 * (at + 1), 4) for at in range(5))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1).square().mean()


class RandomWired(nn.Module):
    """A cell wired at random (Xie et al. 2019), the same for every run: node i adds up some of the nodes before it."""

    def __init__(self, nodes: int = 10) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(nodes))
        self.wires = [[j for j in range(i + 1) if (7 * i + 3 * j) % 4 < 2 or j == i] for i in range(nodes)]

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for wires, layer in zip(self.wires, self.layers, strict=True):
            values.append(layer(F.gelu(functools.reduce(torch.add, [values[j] for j in wires]))))
        return torch.stack(values[-3:]).square().mean()


class Recurrent(nn.Module):
    """A cell unrolled over time: the same weights at every step."""

    def __init__(self, cell: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.cell = cell(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        outputs = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1).square().mean()


class FusedAttention(nn.Module):
    """Attention by `scaled_dot_product_attention`: a fallback kernel with several outputs."""

    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.project, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = self.project(self.norm(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class GPT(nn.Module):
    """Embedding, attention blocks by a fused operator, tied head, cross-entropy."""

    def __init__(self, wrap: Callable[..., Tensor] = lambda block, x: block(x)) -> None:
        super().__init__()
        self.wrap = wrap
        self.embedding = nn.Embedding(64, 32)
        self.blocks = nn.ModuleList(nn.Sequential(FusedAttention(), FeedForward(32)) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = self.wrap(block, x)
        return F.cross_entropy((x @ self.embedding.weight.T).flatten(0, 1), tokens.flatten())


class CapacityRouting(nn.Module):
    """Mixture of experts with real dispatch: every expert gathers its first `capacity` tokens and scatters back."""

    def __init__(self, experts: int = 3, capacity: int = 8) -> None:
        super().__init__()
        self.capacity = capacity
        self.router = nn.Linear(16, experts)
        self.experts = nn.ModuleList(FeedForward(16) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        weight, choice = self.router(x).softmax(-1).max(-1)
        output = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            mine = choice == index
            rank = torch.where(mine, mine.cumsum(0) - 1, self.capacity).clamp(max=self.capacity)
            slots = torch.zeros(self.capacity + 1, dtype=torch.long).scatter(0, rank, torch.arange(len(x)))
            slots = slots[: self.capacity]
            output = output.index_add(0, slots, expert(x.index_select(0, slots)) * weight[slots, None])
        return output.square().mean()


class ExpertChoice(nn.Module):
    """Every expert picks its tokens by top-k, all experts in one batched product (Zhou et al. 2022)."""

    def __init__(self, experts: int = 4, picks: int = 6) -> None:
        super().__init__()
        self.picks = picks
        self.router = nn.Linear(16, experts)
        self.up = nn.Parameter(torch.randn(experts, 16, 32) / 4)
        self.down = nn.Parameter(torch.randn(experts, 32, 16) / 4)

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.router(x).softmax(-1).T.topk(self.picks, -1)
        hidden = F.gelu(torch.bmm(x[chosen], self.up))
        back = torch.bmm(hidden, self.down) * gates[..., None]
        return torch.zeros_like(x).scatter_add(0, chosen.flatten()[:, None].expand(-1, 16), back.flatten(0, 1)).sum()


class Siamese(nn.Module):
    """Two images through one convolutional tower, contrastive loss; BatchNorm statistics change twice."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(ConvNorm(3, 8), nn.MaxPool2d(2), ConvNorm(8, 8), nn.AdaptiveAvgPool2d(1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return F.cosine_embedding_loss(
            self.tower(first).flatten(1), self.tower(second).flatten(1), torch.ones(len(first))
        )


class PreferencePairs(nn.Module):
    """Chosen and rejected answers through one model and a frozen reference (DPO, Rafailov et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.reference = GPT(checkpointed), GPT()
        self.reference.requires_grad_(False)

    def forward(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        ratios = [self.model(tokens) - self.reference(tokens) for tokens in (chosen, rejected)]
        return -F.logsigmoid(ratios[1] - ratios[0])


class Looped(nn.Module):
    """One transformer block applied several times, checkpointed (ALBERT, looped transformers)."""

    def __init__(self, loops: int = 4, width: int = 32) -> None:
        super().__init__()
        self.loops = loops
        self.block = Block(width, 2, FeedForward(width))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.loops):
            x = checkpointed(self.block, x)
        return x.square().mean()


class Nested(nn.Module):
    """Checkpoints inside a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FeedForward(16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        def half(x: Tensor, at: int) -> Tensor:
            return checkpointed(self.layers[at + 1], x + checkpointed(self.layers[at], x))

        for at in (0, 2):
            x = x + checkpoint(half, x, at, use_reentrant=False)
        return x.square().mean()


class DroppedInPairs(nn.Module):
    """Random numbers under checkpointing, with the same layers used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FeedForward(16) for _ in range(2))

    def run(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + checkpoint(lambda y, f=layer: F.dropout(f(y), 0.5), x, use_reentrant=False)
        return x

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (self.run(first) * self.run(second)).sum()


class MixedTypes(nn.Module):
    """float32 weights, bfloat16 products, float64 and boolean in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = F.gelu(self.first(x))
            y = self.second(hidden)
        positive = y > 0
        return torch.where(positive, y.double(), y.double().exp()).float().sum() + hidden.float().square().mean()


class Branches(nn.Module):
    """Control flow on data: both branches are subgraphs, and so is the body of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cond(x.sum() > 0, lambda x: self.left(x).sin(), lambda x: self.right(x).cos(), (x,))
        y = torch.cond(x.mean() > 0, lambda x: x * 2, lambda x: x - 1, (x,))
        return (x + y).square().mean()

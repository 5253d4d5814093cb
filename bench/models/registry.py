"""The workloads by name: each builds a model that returns a loss, and its batch, from a few sizes.

moe          decoder-only transformer, token-choice top-2 mixture of experts, every block checkpointed
contrastive  two views through one tower of transformer blocks, checkpointed, InfoNCE loss: weights used twice
traversal    the shape of pytorch#193193: the same self- and cross-attention blocks traversed twice
gpt          a plain checkpointed GPT with its logits
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.layers import Block, CrossBlock, FeedForward, MixtureOfExperts, checkpointed

__all__ = ["DEMO", "MODELS", "Sizes", "Workload", "build"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a workload; each model reads those that it has."""

    layers: int
    width: int
    batch: int
    tokens: int
    heads: int = 4
    experts: int = 4
    context: int = 64
    vocabulary: int = 2048


@dataclass(frozen=True, slots=True)
class Workload:
    """A model whose forward returns a scalar loss, with one batch."""

    name: str
    model: nn.Module
    batch: tuple[Tensor, ...]


class LanguageModel(nn.Module):
    """Decoder only: embedding, checkpointed causal blocks, a head over the vocabulary, next-token loss."""

    def __init__(self, sizes: Sizes, feed_forward: Callable[[], nn.Module]) -> None:
        super().__init__()
        width = sizes.width
        self.embedding = nn.Embedding(sizes.vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, sizes.heads, feed_forward(), causal=True) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sizes.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = checkpointed(block, x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


class ContrastiveTower(nn.Module):
    """Two views of every image go through one tower; InfoNCE pulls the two together (CLIP and SimCLR in small)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(sizes.width, sizes.heads, FeedForward(sizes.width)) for _ in range(sizes.layers)
        )

    def embed(self, view: Tensor) -> Tensor:
        for block in self.blocks:
            view = checkpointed(block, view)
        return F.normalize(view.mean(1), dim=-1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        similarity = self.embed(first) @ self.embed(second).T * 10
        return F.cross_entropy(similarity, torch.arange(first.shape[0], device=first.device))


class TwoTraversals(nn.Module):
    """The same blocks run twice in one step, without and with a context (pytorch#193193; CoCa, MaMMUT)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CrossBlock(sizes.width, sizes.heads) for _ in range(sizes.layers))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        contrastive = captioned = x
        for block in self.blocks:
            contrastive = checkpointed(block, contrastive)
        for block in self.blocks:
            captioned = checkpointed(block, captioned, context)
        return contrastive.square().mean() + captioned.square().mean()


Builder = Callable[[Sizes], tuple[nn.Module, tuple[Tensor, ...]]]


def _moe(s: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    model = LanguageModel(s, lambda: MixtureOfExperts(s.width, 2 * s.width, s.experts))
    return model, (torch.randint(s.vocabulary, (s.batch, s.tokens)),)


def _contrastive(s: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    views = torch.randn(2, s.batch, s.tokens, s.width)
    return ContrastiveTower(s), (views[0].clone(), views[1].clone())


def _traversal(s: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return TwoTraversals(s), (torch.randn(s.batch, s.tokens, s.width), torch.randn(s.batch, s.context, s.width))


def _gpt(s: Sizes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return LanguageModel(s, lambda: FeedForward(s.width)), (torch.randint(s.vocabulary, (s.batch, s.tokens)),)


MODELS: dict[str, tuple[Builder, dict[str, Sizes]]] = {
    "moe": (
        _moe,
        {"cpu": Sizes(2, 256, 4, 128), "cuda": Sizes(8, 1024, 16, 1024, 16, 8), "small": Sizes(1, 32, 2, 16)},
    ),
    "contrastive": (
        _contrastive,
        {"cpu": Sizes(4, 128, 8, 96), "cuda": Sizes(12, 768, 64, 196, 12), "small": Sizes(2, 32, 2, 16)},
    ),
    "traversal": (
        _traversal,
        {"cpu": Sizes(6, 128, 4, 128), "cuda": Sizes(12, 768, 16, 512, 12, context=256), "small": Sizes(2, 32, 2, 16)},
    ),
    "gpt": (_gpt, {"cpu": Sizes(4, 256, 4, 128), "cuda": Sizes(12, 768, 8, 1024, 12), "small": Sizes(2, 32, 2, 16)}),
}

DEMO = ("moe", "contrastive")


def build(name: str, size: str = "cpu", device: str = "cpu", seed: int = 0) -> Workload:
    """The workload `name` at one of its sizes, the same weights and batch for the same seed.

    Raises:
        ValueError: an unknown name or size; one line.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is unknown (there are {', '.join(MODELS)})")
    builder, sizes = MODELS[name]
    if size not in sizes:
        raise ValueError(f"model {name!r} has no size {size!r} (there are {', '.join(sizes)})")
    torch.manual_seed(seed)
    model, batch = builder(sizes[size])
    return Workload(name, model.to(device), tuple(tensor.to(device) for tensor in batch))

"""Models that use their weights more than once in one step, where fusion costs most.

view 1 ──> tower ──┐                   x ──> blocks ──────────────┐
                   ├──> loss                                      ├──> loss
view 2 ──> tower ──┘              x, context ──> the same blocks ─┘
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.layers import Block, CrossBlock, FeedForward
from bench.models.policies import Policy
from bench.models.workload import Batch

__all__ = ["Contrastive", "Siamese", "Traversal"]


class ContrastiveTower(nn.Module):
    """Two views of every image go through one tower; InfoNCE pulls the two together (SimCLR, Chen et al. 2020)."""

    def __init__(self, sizes: Contrastive, policy: Policy) -> None:
        super().__init__()
        blocks = [Block(sizes.width, sizes.heads, FeedForward(sizes.width)) for _ in range(sizes.layers)]
        self.blocks = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(blocks))

    def embed(self, view: Tensor) -> Tensor:
        for block in self.blocks:
            view = block(view)
        return F.normalize(view.mean(1), dim=-1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        similarity = self.embed(first) @ self.embed(second).T * 10
        return F.cross_entropy(similarity, torch.arange(first.shape[0], device=first.device))


@dataclass(frozen=True, slots=True)
class Contrastive:
    """Two views through one tower of transformer blocks; `tokens` patches in each."""

    layers: int
    width: int
    batch: int
    tokens: int
    heads: int = 4

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Patches come embedded."""
        views = torch.randn(2, self.batch, self.tokens, self.width)
        return ContrastiveTower(self, policy), (views[0].clone(), views[1].clone())


class TwoTraversals(nn.Module):
    """The same blocks run twice in one step, without and with a context (pytorch#193193; CoCa, MaMMUT)."""

    def __init__(self, sizes: Traversal, policy: Policy) -> None:
        super().__init__()
        blocks = [CrossBlock(sizes.width, sizes.heads) for _ in range(sizes.layers)]
        self.blocks = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(blocks))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        contrastive = captioned = x
        for block in self.blocks:
            contrastive = block(contrastive)
        for block in self.blocks:
            captioned = block(captioned, context)
        return contrastive.square().mean() + captioned.square().mean()


@dataclass(frozen=True, slots=True)
class Traversal:
    """Self- and cross-attention blocks traversed twice; `context` tokens to attend to in the second."""

    layers: int
    width: int
    batch: int
    tokens: int
    context: int
    heads: int = 4

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Tokens and context come embedded."""
        x = torch.randn(self.batch, self.tokens, self.width)
        return TwoTraversals(self, policy), (x, torch.randn(self.batch, self.context, self.width))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm around a shortcut; halves the image where `stride` is 2.

    GroupNorm has no running statistics: a checkpointed BatchNorm would count every batch twice.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.GroupNorm(8, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.GroupNorm(8, channels),
        )
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


class SiameseTower(nn.Module):
    """A residual convolutional tower over two images; contrastive loss (Koch et al. 2015)."""

    def __init__(self, sizes: Siamese, policy: Policy) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, sizes.channels, 3, padding=1)
        channels, blocks = sizes.channels, []
        for stage in range(sizes.stages):
            wider = sizes.channels * 2**stage
            blocks += [ResidualBlock(channels, wider, 1 if stage == 0 else 2), ResidualBlock(wider, wider)]
            channels = wider
        self.blocks = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(blocks))

    def embed(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))

    def forward(self, first: Tensor, second: Tensor, same: Tensor) -> Tensor:
        return F.cosine_embedding_loss(self.embed(first), self.embed(second), same)


@dataclass(frozen=True, slots=True)
class Siamese:
    """Pairs of images through one convolutional tower of `stages` times two residual blocks."""

    stages: int
    channels: int
    batch: int
    image: int

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Half of the pairs show the same."""
        images = torch.randn(2, self.batch, 3, self.image, self.image)
        same = torch.ones(self.batch)
        same[1::2] = -1
        return SiameseTower(self, policy), (images[0].clone(), images[1].clone(), same)

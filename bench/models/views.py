"""Views of the same thing: CLIP, SimCLR and multi-crop self-distillation.

image ──> image tower ──┐             view 1, view 2 ──> tower ──> NT-Xent      2 large crops ──> teacher ──┐
                        ├─> InfoNCE                                                                         ├─>
text  ──> text tower  ──┘                               2 large, n small crops ──> student, crop by crop  ──┘
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.images import Residual, convolution
from bench.models.layers import Block, FeedForward
from bench.models.policies import Policy
from bench.models.workload import Batch

__all__ = ["CLIP", "MultiCrop", "PatchTower", "SimCLR", "patches_of"]


def patches_of(image: Tensor, patch: int) -> Tensor:
    """(batch, 3, height, width) to (batch, patches, 3 patch^2)."""
    return F.unfold(image, patch, stride=patch).transpose(1, 2)


class PatchTower(nn.Module):
    """A vision transformer without a class token: the mean of its patches, for images of any size."""

    def __init__(self, layers: int, width: int, heads: int, patch: int, policy: Policy) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(3 * patch**2, width)
        blocks = [Block(width, heads, FeedForward(width)) for _ in range(layers)]
        self.blocks = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(patches_of(image, self.patch))
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean(1)


class TextTower(nn.Module):
    """A causal transformer that gives its last token."""

    def __init__(self, sizes: CLIP, policy: Policy) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        blocks = [Block(sizes.width, sizes.heads, FeedForward(sizes.width), True) for _ in range(sizes.layers)]
        self.blocks = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(blocks))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return x[:, -1]


class CLIPModel(nn.Module):
    """Two towers and the symmetric contrastive loss (Radford et al. 2021)."""

    def __init__(self, image: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        seen, read = F.normalize(self.image(images), dim=-1), F.normalize(self.text(tokens), dim=-1)
        logits = self.temperature.exp() * seen @ read.T
        labels = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@dataclass(frozen=True, slots=True)
class CLIP:
    """Images of `image` pixels in patches of `patch`, captions of `tokens`."""

    layers: int
    width: int
    batch: int
    image: int
    tokens: int
    heads: int = 4
    patch: int = 8
    vocabulary: int = 2048

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Both towers are as deep and as wide as each other."""
        tower = PatchTower(self.layers, self.width, self.heads, self.patch, policy)
        tokens = torch.randint(self.vocabulary, (self.batch, self.tokens))
        images = torch.randn(self.batch, 3, self.image, self.image)
        return CLIPModel(tower, TextTower(self, policy)), (images, tokens)


class SimCLRModel(nn.Module):
    """A residual tower and a projection, run on each view; NT-Xent over all 2n of them (Chen et al. 2020)."""

    def __init__(self, sizes: SimCLR, policy: Policy) -> None:
        super().__init__()
        channels, blocks = sizes.channels, [convolution(3, sizes.channels)]
        for stage in range(sizes.stages):
            wider = sizes.channels * 2**stage
            blocks.append(Residual(channels, wider, 2 if stage else 1))
            channels = wider
        self.blocks = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(blocks))
        self.project = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 64))

    def embed(self, view: Tensor) -> Tensor:
        for block in self.blocks:
            view = block(view)
        return F.normalize(self.project(view.mean((2, 3))), dim=-1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        count = len(first)
        both = torch.cat([self.embed(first), self.embed(second)])
        logits = (both @ both.T * 5).masked_fill(torch.eye(2 * count, dtype=torch.bool, device=both.device), -1e9)
        partner = torch.arange(2 * count, device=both.device).roll(count)
        return F.cross_entropy(logits, partner)


@dataclass(frozen=True, slots=True)
class SimCLR:
    """`stages` residual blocks on two views."""

    stages: int
    channels: int
    batch: int
    image: int

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Two views of random images."""
        views = torch.randn(2, self.batch, 3, self.image, self.image)
        return SimCLRModel(self, policy), (views[0].clone(), views[1].clone())


class Distillation(nn.Module):
    """The student sees all crops, the teacher the large ones; cross-entropy between them (DINO, Caron et al. 2021)."""

    def __init__(self, student: PatchTower, teacher: PatchTower, width: int, prototypes: int) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        self.teacher.requires_grad_(False)
        self.prototypes = nn.Linear(width, prototypes, bias=False)

    def forward(self, first: Tensor, second: Tensor, *small: Tensor) -> Tensor:
        targets = [(self.prototypes(self.teacher(crop)).detach() * 25).softmax(-1) for crop in (first, second)]
        losses = []
        for at, crop in enumerate((first, second, *small)):
            predicted = (self.prototypes(self.student(crop)) * 10).log_softmax(-1)
            losses += [-(target * predicted).sum(-1).mean() for which, target in enumerate(targets) if which != at]
        return torch.stack(losses).mean()


@dataclass(frozen=True, slots=True)
class MultiCrop:
    """Two crops of `image` pixels and `crops` of half of them, through one student."""

    layers: int
    width: int
    batch: int
    image: int
    crops: int = 3
    heads: int = 4
    patch: int = 8
    prototypes: int = 256

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """The teacher is not trained and not checkpointed."""
        student, teacher = (
            PatchTower(self.layers, self.width, self.heads, self.patch, each) for each in (policy, Policy())
        )
        sizes = [self.image] * 2 + [self.image // 2] * self.crops
        crops = tuple(torch.randn(self.batch, 3, size, size) for size in sizes)
        return Distillation(student, teacher, self.width, self.prototypes), crops

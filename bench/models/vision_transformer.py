"""A vision transformer classifier, plain or with experts that pick patches (V-MoE, Riquelme et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.layers import Block, FeedForward
from bench.models.moe import ExpertChoice, MoELayer
from bench.models.policies import Policy
from bench.models.views import patches_of
from bench.models.workload import Batch

__all__ = ["VisionTransformer"]


class VisionTransformerModel(nn.Module):
    """Patches, blocks, the mean, a linear layer, cross-entropy; every second block may hold experts."""

    def __init__(self, sizes: VisionTransformer, policy: Policy) -> None:
        super().__init__()
        width = sizes.width
        self.patch = sizes.patch
        self.embed = nn.Linear(3 * sizes.patch**2, width)
        blocks = [Block(width, sizes.heads, sizes.feed_forward(at)) for at in range(sizes.layers)]
        self.blocks = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, sizes.classes)

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        x = self.embed(patches_of(image, self.patch))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x).mean(1)), labels)


@dataclass(frozen=True, slots=True)
class VisionTransformer:
    """`experts` in every second block, 0 for none; each expert picks half of the patches."""

    layers: int
    width: int
    batch: int
    image: int
    heads: int = 4
    patch: int = 8
    experts: int = 0
    classes: int = 100

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Random images and labels."""
        labels = torch.randint(self.classes, (self.batch,))
        return VisionTransformerModel(self, policy), (torch.randn(self.batch, 3, self.image, self.image), labels)

    def feed_forward(self, at: int) -> nn.Module:
        """The feed-forward layer of block `at`."""
        if self.experts and at % 2:
            return MoELayer(self.width, 2 * self.width, self.experts, ExpertChoice(0.5), "capacity", capacity=1.0)
        return FeedForward(self.width)

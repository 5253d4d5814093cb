"""U-Net: convolutions down, convolutions up, and a concatenation across at every resolution (Ronneberger et al. 2015).

image ─> c ───────────────────────> cat ─> c ─> loss
         └─> pool ─> c ──────> cat ─> c ─┘up
                     └─> pool ─> c ─┘up
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.policies import Policy
from bench.models.workload import Batch

__all__ = ["UNet"]


def double_convolution(channels_in: int, channels: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with GroupNorm and ReLU."""
    layers: list[nn.Module] = []
    for before in (channels_in, channels):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.GroupNorm(8, channels), nn.ReLU()]
    return nn.Sequential(*layers)


class UNetModel(nn.Module):
    """The network, with a segmentation loss over `classes`."""

    def __init__(self, sizes: UNet, policy: Policy) -> None:
        super().__init__()
        widths = [sizes.channels * 2**level for level in range(sizes.depth + 1)]
        down = [double_convolution(*pair) for pair in zip([3, *widths], widths, strict=False)]
        up = [double_convolution(3 * width, width) for width in reversed(widths[:-1])]
        self.down = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(down))
        self.up = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(up))
        self.head = nn.Conv2d(sizes.channels, sizes.classes, 1)

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        x, across = image, []
        for at, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if at else x)
            across.append(x)
        across.pop()
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2), across.pop()], 1))
        return F.cross_entropy(self.head(x), labels)


@dataclass(frozen=True, slots=True)
class UNet:
    """`depth` halvings of the image; every block of two convolutions is a checkpoint where the policy says so."""

    depth: int
    channels: int
    batch: int
    image: int
    classes: int = 4

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Random images and labels."""
        labels = torch.randint(self.classes, (self.batch, self.image, self.image))
        return UNetModel(self, policy), (torch.randn(self.batch, 3, self.image, self.image), labels)

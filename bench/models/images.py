"""Image classifiers as chains of blocks, in the shapes that people published, small enough to measure.

ResNet and WideResNet (He et al. 2016; Zagoruyko 2016), DenseNet (Huang et al. 2017), ConvNeXt (Liu et al. 2022),
AlexNet, VGG, SqueezeNet (Iandola et al. 2016), and WideResNet with patch-level experts in its last stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.moe import ExpertChoice, MoELayer
from bench.models.policies import Policy
from bench.models.workload import Batch

__all__ = ["VGG", "AlexNet", "Classifier", "ConvNeXt", "DenseNet", "ImageSizes", "ResNet", "SqueezeNet"]


class Classifier(nn.Module):
    """Blocks in a chain, the mean over the image, a linear layer, cross-entropy."""

    def __init__(self, blocks: list[nn.Module], channels: int, classes: int, policy: Policy) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(blocks))
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        x = image
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(x.mean((2, 3))), labels)


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """A classifier of square images; `channels` is the width of its first stage."""

    batch: int
    image: int
    channels: int
    classes: int = 100

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Random images and labels."""
        blocks, channels = self.blocks()
        labels = torch.randint(self.classes, (self.batch,))
        images = torch.randn(self.batch, 3, self.image, self.image)
        return Classifier(blocks, channels, self.classes, policy), (images, labels)

    def blocks(self) -> tuple[list[nn.Module], int]:
        """The blocks, and the channels that the last one gives."""
        raise NotImplementedError


def convolution(channels_in: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    layer = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU())


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(channels_in, channels, 3, stride),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


class PatchExperts(nn.Module):
    """A residual mixture of experts over the patches of a feature map: each expert picks its patches (pMoE)."""

    def __init__(self, channels: int, experts: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.experts = MoELayer(channels, channels, experts, ExpertChoice(0.25), "capacity", capacity=1.0)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.experts(patches).transpose(1, 2).view_as(x)


@dataclass(frozen=True, slots=True)
class ResNet(ImageSizes):
    """`depth` residual blocks in each of `stages`; `factor` widens all but the stem; experts end the last stage."""

    depth: int = 2
    stages: int = 3
    factor: int = 1
    experts: int = 0

    def blocks(self) -> tuple[list[nn.Module], int]:
        channels, blocks = self.channels, [convolution(3, self.channels)]
        for stage in range(self.stages):
            wider = self.channels * self.factor * 2**stage
            for at in range(self.depth):
                blocks.append(Residual(channels, wider, 2 if stage and not at else 1))
                channels = wider
        if self.experts:
            blocks.append(PatchExperts(channels, self.experts))
        return blocks, channels


class DenseBlock(nn.Module):
    """Every layer reads the outputs of all layers before it; a transition halves channels and image."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(convolution(channels + at * growth, growth) for at in range(layers))
        self.channels = (channels + layers * growth) // 2
        self.transition = convolution(channels + layers * growth, self.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return F.avg_pool2d(self.transition(torch.cat(features, 1)), 2)


@dataclass(frozen=True, slots=True)
class DenseNet(ImageSizes):
    """Dense blocks of `layers` layers that each add `channels` channels."""

    layers: int = 5
    stages: int = 3

    def blocks(self) -> tuple[list[nn.Module], int]:
        channels, blocks = 2 * self.channels, [convolution(3, 2 * self.channels)]
        for _ in range(self.stages):
            block = DenseBlock(channels, self.channels, self.layers)
            channels = block.channels
            blocks.append(block)
        return blocks, channels


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm over channels, two pointwise products with GELU between, a scaled shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class ConvNeXt(ImageSizes):
    """Stages of `depth` blocks, with a strided convolution before each."""

    depth: int = 2
    stages: int = 3

    def blocks(self) -> tuple[list[nn.Module], int]:
        channels, blocks = 3, []
        for stage in range(self.stages):
            wider = self.channels * 2**stage
            blocks.append(nn.Conv2d(channels, wider, 2, 2))
            blocks += [ConvNeXtBlock(wider) for _ in range(self.depth)]
            channels = wider
        return blocks, channels


@dataclass(frozen=True, slots=True)
class VGG(ImageSizes):
    """Plain stages of two convolutions and a pooling."""

    stages: int = 3

    def blocks(self) -> tuple[list[nn.Module], int]:
        channels, blocks = 3, []
        for stage in range(self.stages):
            wider = self.channels * 2**stage
            layers = [convolution(channels, wider), convolution(wider, wider), nn.MaxPool2d(2)]
            blocks.append(nn.Sequential(*layers))
            channels = wider
        return blocks, channels


@dataclass(frozen=True, slots=True)
class AlexNet(ImageSizes):
    """Large kernels first, two poolings, and wide linear layers, here as 1x1 convolutions of the pooled image."""

    def blocks(self) -> tuple[list[nn.Module], int]:
        c = self.channels
        blocks: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, c, 11, 2, 5), nn.ReLU(), nn.MaxPool2d(3, 2)),
            nn.Sequential(nn.Conv2d(c, 3 * c, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            nn.Sequential(nn.Conv2d(3 * c, 6 * c, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(6 * c, 4 * c, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
            nn.Sequential(nn.Conv2d(4 * c, 32 * c, 1), nn.ReLU(), nn.Conv2d(32 * c, 32 * c, 1), nn.ReLU()),
        ]
        return blocks, 32 * c


class Fire(nn.Module):
    """Squeeze to few channels, expand by 1x1 and by 3x3, concatenate."""

    def __init__(self, channels_in: int, squeezed: int, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels_in, squeezed, 1)
        self.one = nn.Conv2d(squeezed, channels // 2, 1)
        self.three = nn.Conv2d(squeezed, channels // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


@dataclass(frozen=True, slots=True)
class SqueezeNet(ImageSizes):
    """A stem and pairs of fire modules, each pair twice as wide as the one before."""

    stages: int = 3

    def blocks(self) -> tuple[list[nn.Module], int]:
        channels = self.channels
        blocks: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU())]
        for stage in range(self.stages):
            wider = 2 * self.channels * 2**stage
            blocks += [nn.MaxPool2d(2), Fire(channels, wider // 8, wider), Fire(wider, wider // 8, wider)]
            channels = wider
        return blocks, channels

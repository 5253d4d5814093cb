"""Irregularly wired networks: random wiring, searched cells, and branches of several resolutions.

A cell is a directed acyclic graph of small layers, and a network is a chain of cells.  Where every cell reads the two
cells before it (DARTS, NASNet), the chain itself is irregular.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.images import ImageSizes, convolution
from bench.models.policies import Policy
from bench.models.workload import Batch

__all__ = ["DARTS", "HRNet", "NASNet", "RandWire", "SwiftNet"]


def separable(channels_in: int, channels: int, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """ReLU, depthwise and pointwise convolution, BatchNorm."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_in, kernel, 1, padding, dilation, channels_in, bias=False),
        nn.Conv2d(channels_in, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)


class RandomStage(nn.Module):
    """A random graph of separable convolutions: each adds up its inputs, with learned weights (Xie et al. 2019)."""

    def __init__(self, channels_in: int, channels: int, wires: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.wires = wires
        self.stem = convolution(channels_in, channels, 3, 2)
        self.layers = nn.ModuleList(separable(channels, channels) for _ in wires)
        self.weights = nn.ParameterList(torch.zeros(len(before)) for before in wires)
        read = {source for before in wires for source in before}
        self.ends = [node for node in range(len(wires)) if node not in read]

    def forward(self, x: Tensor) -> Tensor:
        start, values = self.stem(x), []
        for before, layer, weights in zip(self.wires, self.layers, self.weights, strict=True):
            gates = weights.sigmoid()
            inputs = [gates[at] * values[source] for at, source in enumerate(before)] or [start]
            values.append(layer(_sum(inputs)))
        return _sum([values[node] for node in self.ends]) / len(self.ends)


@dataclass(frozen=True, slots=True)
class RandWire(ImageSizes):
    """`stages` random graphs of `nodes` nodes: WS (small world), BA (preferential attachment) or ER."""

    wiring: str = "ws"
    nodes: int = 10
    stages: int = 2

    def blocks(self) -> tuple[list[nn.Module], int]:
        channels, blocks = 3, []
        for stage in range(self.stages):
            wider = self.channels * 2**stage
            blocks.append(RandomStage(channels, wider, self.wires(stage)))
            channels = wider
        return blocks, channels

    def wires(self, seed: int) -> list[list[int]]:
        """For each node the nodes before it that it reads: edges of the random graph, from lower to higher number."""
        import networkx

        if self.wiring == "ws":
            graph = networkx.connected_watts_strogatz_graph(self.nodes, 4, 0.75, seed=seed)
        elif self.wiring == "ba":
            graph = networkx.barabasi_albert_graph(self.nodes, 3, seed=seed)
        else:
            graph = networkx.erdos_renyi_graph(self.nodes, 0.3, seed=seed)
        return [sorted(other for other in graph[node] if other < node) for node in range(self.nodes)]


_OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    "sep3": lambda c: separable(c, c, 3),
    "sep5": lambda c: separable(c, c, 5),
    "dil3": lambda c: separable(c, c, 3, 2),
    "avg3": lambda _: nn.AvgPool2d(3, 1, 1),
    "max3": lambda _: nn.MaxPool2d(3, 1, 1),
    "skip": lambda _: nn.Identity(),
}

Genotype = tuple[tuple[tuple[str, int], tuple[str, int]], ...]

_DARTS: Genotype = (
    (("sep3", 0), ("sep3", 1)),
    (("sep3", 0), ("sep3", 1)),
    (("sep3", 1), ("skip", 0)),
    (("skip", 0), ("dil3", 2)),
)
"""The normal cell of DARTS_V2 (Liu et al. 2019): each node adds two operations on the nodes before it."""

_NASNET: Genotype = (
    (("sep5", 1), ("sep3", 0)),
    (("sep5", 0), ("sep3", 0)),
    (("avg3", 1), ("skip", 0)),
    (("avg3", 0), ("avg3", 0)),
    (("sep3", 1), ("skip", 1)),
)
"""The normal cell of NASNet-A (Zoph et al. 2018)."""


class SearchedCell(nn.Module):
    """A cell over the outputs of the two cells before it; concatenates its nodes."""

    def __init__(self, genotype: Genotype, before: int, last: int, channels: int) -> None:
        super().__init__()
        self.first, self.second = convolution(before, channels, 1), convolution(last, channels, 1)
        self.genotype = genotype
        self.operations = nn.ModuleList(_OPERATIONS[name](channels) for pair in genotype for name, _ in pair)

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        values = [self.first(before), self.second(last)]
        for at, ((_, left), (_, right)) in enumerate(self.genotype):
            values.append(self.operations[2 * at](values[left]) + self.operations[2 * at + 1](values[right]))
        return torch.cat(values[2:], 1)


class SearchedNetwork(nn.Module):
    """A stem, cells that read the two before them, the mean over the image, cross-entropy."""

    def __init__(self, sizes: DARTS, genotype: Genotype, policy: Policy) -> None:
        super().__init__()
        channels, joined = sizes.channels, sizes.channels * len(genotype)
        self.stem = convolution(3, channels, 3, 2)
        widths = [channels, channels, *[joined] * sizes.cells]
        cells = [SearchedCell(genotype, widths[at], widths[at + 1], channels) for at in range(sizes.cells)]
        self.cells = nn.ModuleList(policy.wrap(cell, at) for at, cell in enumerate(cells))
        self.head = nn.Linear(joined, sizes.classes)

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        before = last = self.stem(image)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return F.cross_entropy(self.head(last.mean((2, 3))), labels)


@dataclass(frozen=True, slots=True)
class DARTS:
    """`cells` normal cells found by DARTS."""

    batch: int
    image: int
    channels: int
    cells: int = 2
    classes: int = 100

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Random images and labels."""
        labels = torch.randint(self.classes, (self.batch,))
        images = torch.randn(self.batch, 3, self.image, self.image)
        return SearchedNetwork(self, self.genotype(), policy), (images, labels)

    def genotype(self) -> Genotype:
        """What each cell is wired like."""
        return _DARTS


@dataclass(frozen=True, slots=True)
class NASNet(DARTS):
    """The same with the cells of NASNet-A."""

    def genotype(self) -> Genotype:
        return _NASNET


class PropagatedCell(nn.Module):
    """Nodes of growing and shrinking width that concatenate what they read, in the manner of SwiftNet's cells.

    The wiring is random but the same for every run: each node reads one to three of the four nodes before it.
    """

    def __init__(self, channels_in: int, channels: int, nodes: int, seed: int) -> None:
        super().__init__()
        wires, widths, layers = random.Random(seed), [channels_in], []
        self.wires = [[0]]
        for node in range(1, nodes):
            near = range(max(0, node - 3), node + 1)
            self.wires.append(sorted(wires.sample(near, min(len(near), wires.randint(1, 3)))))
        for node, before in enumerate(self.wires):
            width = channels * (1, 2, 1, 3)[node % 4]
            layers.append(separable(sum(widths[source] for source in before), width))
            widths.append(width)
        self.layers = nn.ModuleList(layers)
        read = {source for before in self.wires for source in before}
        self.ends = [node for node in range(1, nodes + 1) if node not in read]
        self.channels = sum(widths[node] for node in self.ends)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for before, layer in zip(self.wires, self.layers, strict=True):
            values.append(layer(torch.cat([values[source] for source in before], 1)))
        return F.max_pool2d(torch.cat([values[node] for node in self.ends], 1), 2)


@dataclass(frozen=True, slots=True)
class SwiftNet(ImageSizes):
    """`cells` cells of `nodes` nodes (Cheng et al. 2019; the cells that Serenity was shown on)."""

    cells: int = 2
    nodes: int = 9

    def blocks(self) -> tuple[list[nn.Module], int]:
        channels, blocks = self.channels, [convolution(3, self.channels, 3, 2)]
        for at in range(self.cells):
            cell = PropagatedCell(channels, self.channels, self.nodes, at)
            channels = cell.channels
            blocks.append(cell)
        return blocks, channels


class Exchange(nn.Module):
    """One stage of HRNet: a convolution at every resolution, then every resolution adds up all of them."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(convolution(width, width) for width in channels)
        pairs = [(source, target) for target in channels for source in channels]
        self.mixes = nn.ModuleList(nn.Conv2d(source, target, 1) for source, target in pairs)

    def forward(self, *branches: Tensor) -> tuple[Tensor, ...]:
        seen = [branch(x) for branch, x in zip(self.branches, branches, strict=True)]
        count, mixed = len(seen), []
        for target, like in enumerate(seen):
            mixes = self.mixes[target * count : (target + 1) * count]
            parts = [resized(mix(x), like) for mix, x in zip(mixes, seen, strict=True)]
            mixed.append(F.relu(_sum(parts)))
        return tuple(mixed)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """`x` at the resolution of `like`, by pooling or by repetition."""
    if x.shape[-1] > like.shape[-1]:
        return F.avg_pool2d(x, x.shape[-1] // like.shape[-1])
    return x if x.shape[-1] == like.shape[-1] else F.interpolate(x, like.shape[-2:])


class HRNetModel(nn.Module):
    """Parallel branches of halving resolution that exchange after every stage (Wang et al. 2019)."""

    def __init__(self, sizes: HRNet, policy: Policy) -> None:
        super().__init__()
        widths = [sizes.channels * 2**branch for branch in range(sizes.branches)]
        self.stem = nn.ModuleList(convolution(3, width) for width in widths)
        self.stages = nn.ModuleList(policy.wrap(Exchange(widths), at) for at in range(sizes.stages))
        self.head = nn.Conv2d(sum(widths), sizes.classes, 1)

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        branches = tuple(stem(F.avg_pool2d(image, 2**at)) for at, stem in enumerate(self.stem))
        for stage in self.stages:
            branches = stage(*branches)
        joined = torch.cat([resized(branch, branches[0]) for branch in branches], 1)
        return F.cross_entropy(self.head(joined), labels)


@dataclass(frozen=True, slots=True)
class HRNet:
    """Segmentation with `branches` resolutions and `stages` exchanges."""

    batch: int
    image: int
    channels: int
    branches: int = 3
    stages: int = 2
    classes: int = 8

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Random images and labels for every pixel."""
        labels = torch.randint(self.classes, (self.batch, self.image, self.image))
        return HRNetModel(self, policy), (torch.randn(self.batch, 3, self.image, self.image), labels)

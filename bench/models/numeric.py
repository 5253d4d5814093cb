"""Numerical programs: an unrolled optimizer and a stencil of ocean modelling, both differentiated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.models.policies import Policy
from bench.models.workload import Batch

__all__ = ["Stencil", "Unrolled"]


class ProximalStep(nn.Module):
    """One step of sparse least squares with a learned step and threshold: gradient, momentum, shrinkage."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.threshold = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.01))
        self.momentum = nn.Parameter(torch.tensor(0.5))

    def forward(self, code: Tensor, speed: Tensor, data: Tensor, dictionary: Tensor) -> tuple[Tensor, Tensor]:
        gradient = (code @ dictionary.T - data) @ dictionary
        speed = self.momentum * speed - self.step * gradient
        code = code + speed
        return torch.sign(code) * torch.relu(code.abs() - self.threshold), speed


class UnrolledModel(nn.Module):
    """Steps of the same dictionary, one after the other; the loss of the code that they find (Gregor, LeCun 2010)."""

    def __init__(self, sizes: Unrolled, policy: Policy) -> None:
        super().__init__()
        self.dictionary = nn.Parameter(torch.randn(sizes.width, sizes.atoms) * sizes.width**-0.5)
        self.steps = nn.ModuleList(policy.wrap(ProximalStep(), at) for at in range(sizes.steps))

    def forward(self, data: Tensor) -> Tensor:
        code = data @ self.dictionary
        speed = torch.zeros_like(code)
        for step in self.steps:
            code, speed = step(code, speed, data, self.dictionary)
        return (code @ self.dictionary.T - data).square().mean() + 1e-3 * code.abs().mean()


@dataclass(frozen=True, slots=True)
class Unrolled:
    """An optimizer of `steps` steps, trained through all of them."""

    steps: int
    width: int
    atoms: int
    batch: int

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Random data."""
        return UnrolledModel(self, policy), (torch.randn(self.batch, self.width),)


def shift(x: Tensor, axis: int) -> Tensor:
    """The difference to the next cell along an axis, periodic."""
    return x.roll(-1, axis) - x


class IsoneutralStep(nn.Module):
    """Mixing along surfaces of equal density: slopes from gradients, tapered, then the divergence of the fluxes.

    In the style of the isoneutral benchmark of PyHPC: many small stencils over a few three-dimensional fields.
    """

    def __init__(self) -> None:
        super().__init__()
        self.diffusivity = nn.Parameter(torch.tensor(0.1))

    def forward(self, temperature: Tensor, salinity: Tensor) -> tuple[Tensor, Tensor]:
        expansion = 1.67e-1 + 1e-2 * temperature - 1e-3 * salinity
        contraction = 0.78 - 2e-3 * temperature
        vertical = contraction * shift(salinity, 3) - expansion * shift(temperature, 3)
        vertical = torch.where(vertical < -1e-3, vertical, -1e-3)
        fluxes = [torch.zeros_like(temperature), torch.zeros_like(salinity)]
        for axis in (1, 2):
            across = contraction * shift(salinity, axis) - expansion * shift(temperature, axis)
            slope = -across / vertical
            taper = 0.5 * (1 + torch.tanh((0.5 - slope.abs()) / 0.1))
            mixing = self.diffusivity * taper
            for at, tracer in enumerate((temperature, salinity)):
                flux = mixing * (shift(tracer, axis) + slope * shift(tracer, 3))
                down = mixing * slope * (shift(tracer, axis) + slope * shift(tracer, 3))
                fluxes[at] = fluxes[at] + flux - flux.roll(1, axis) + down - down.roll(1, 3)
        return temperature + 0.01 * fluxes[0], salinity + 0.01 * fluxes[1]


class StencilModel(nn.Module):
    """Steps from a learned initial state to an observed one, as in data assimilation."""

    def __init__(self, sizes: Stencil, policy: Policy) -> None:
        super().__init__()
        grid = (sizes.batch, sizes.side, sizes.side, sizes.depth)
        self.temperature, self.salinity = nn.Parameter(torch.randn(grid)), nn.Parameter(torch.randn(grid))
        self.steps = nn.ModuleList(policy.wrap(IsoneutralStep(), at) for at in range(sizes.steps))

    def forward(self, temperature: Tensor, salinity: Tensor) -> Tensor:
        warm, salt = self.temperature, self.salinity
        for step in self.steps:
            warm, salt = step(warm, salt)
        return (warm - temperature).square().mean() + (salt - salinity).square().mean()


@dataclass(frozen=True, slots=True)
class Stencil:
    """`steps` steps on `batch` grids of side x side x depth cells."""

    steps: int
    batch: int
    side: int
    depth: int

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """A random observation."""
        grid = (self.batch, self.side, self.side, self.depth)
        return StencilModel(self, policy), (torch.randn(grid), torch.randn(grid))

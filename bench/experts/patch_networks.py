"""One-layer networks over patches with a fixed head, one for each seed, trained as one stack.

    cnn        mean over patches of ReLU filters, times a fixed random head        (seeds, filters, 64)
    attention  the same, patches weighted by a softmax of one learned query
    samples    experts of filters; a router over the whole image picks one
    patches    every expert's router picks its `chosen` patches, weighted by a softmax over them      (pMoE)
    apart      the same with routers that were trained before, on their own, and then stay; weights of one

Sizes and learning rates are the paper's (Chowdhury et al. 2023, MNIST).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.experts.data import PATCHES, PIXELS

__all__ = ["PatchNetwork", "train", "train_routers"]

_RATE, _BATCH = 0.2, 20


@dataclass
class PatchNetwork:
    """`seeds` networks of one kind; `trained` are the tensors that `train` changes, each (seeds, ...)."""

    kind: str
    seeds: int
    experts: int
    chosen: int
    filters: Tensor
    head: Tensor
    router: Tensor | None
    trained: list[Tensor]

    @classmethod
    def of(cls, seeds: int, kind: str, filters: int, experts: int = 8, chosen: int = 6, seed: int = 0) -> PatchNetwork:
        """Networks as they are before training; the seeds differ, and all come from the generator `seed`."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, std: float = 1.0) -> Tensor:
            return torch.randn(seeds, *shape, generator=generator) * std

        weights = normal(filters, PIXELS, std=0.01 if kind == "patches" else 0.1).requires_grad_()
        head, router = normal(filters), None
        if kind == "apart":
            head = torch.cat([torch.ones(seeds, filters // 2), -torch.ones(seeds, filters // 2)], 1)
        if kind in ("patches", "samples", "attention"):
            width = {"patches": (experts, PIXELS), "samples": (experts, PIXELS * PATCHES), "attention": (1, PIXELS)}[
                kind
            ]
            router = normal(*width, std=1e-4).requires_grad_()
        trained = [weights] if router is None else [weights, router]
        return cls(kind, seeds, experts, chosen, weights, head, router, trained)

    def __call__(self, x: Tensor) -> Tensor:
        """(seeds, batch, 16, 64) to outputs (seeds, batch): above 0 is class 1."""
        hidden = torch.matmul(x.flatten(1, 2), self.filters.transpose(1, 2)).relu().unflatten(1, x.shape[1:3])
        if self.kind == "attention":
            assert self.router is not None
            hidden = hidden * PATCHES * torch.einsum("sbnd,sd->sbn", x, self.router[:, 0]).softmax(-1)[..., None]
        elif self.kind != "cnn":
            gates = self.gates(x)
            hidden = (hidden.unflatten(-1, (gates.shape[-1], -1)) * gates[..., None]).flatten(3)
        return torch.einsum("sbm,sm->sb", hidden.mean(2), self.head)

    def gates(self, x: Tensor) -> Tensor:
        """What each expert gives each patch: (seeds, batch, 16, experts)."""
        assert self.router is not None
        if self.kind == "samples":
            best = torch.einsum("sbd,skd->sbk", x.flatten(2), self.router).softmax(-1).topk(1, -1)
            shape = (*x.shape[:2], self.router.shape[1])
            weights = torch.zeros(shape).scatter(-1, best.indices, best.values)
            return weights[:, :, None].expand(-1, -1, PATCHES, -1)
        scores = torch.einsum("sbnd,skd->sbnk", x, self.router)
        best = scores.topk(self.chosen, 2)
        values = torch.ones_like(best.values) if self.kind == "apart" else best.values.softmax(2)
        return torch.zeros_like(scores).scatter(2, best.indices, values)


def train(network: PatchNetwork, x: Tensor, y: Tensor, epochs: int) -> None:
    """Gradient descent on the logistic loss; x (seeds, n, 16, 64), y (seeds, n) in 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(x.shape[1], generator=generator).split(_BATCH):
            loss = F.binary_cross_entropy_with_logits(network(x[:, batch]), y[:, batch], reduction="none")
            gradients = torch.autograd.grad(loss.mean(1).sum(), network.trained)
            with torch.no_grad():
                for tensor, gradient in zip(network.trained, gradients, strict=True):
                    tensor -= _RATE * gradient


def train_routers(network: PatchNetwork, x: Tensor, y: Tensor, epochs: int = 100) -> None:
    """Train two linear routers to tell the classes apart, and fix them (the paper's separate training)."""
    router = (torch.randn(network.seeds, 2, PIXELS, generator=torch.Generator().manual_seed(7)) * 0.1).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for batch in torch.randperm(x.shape[1], generator=generator).split(_BATCH):
            sums = torch.einsum("sbnd,skd->sbk", x[:, batch], router)
            loss = -((y[:, batch] * 2 - 1) * (sums[..., 0] - sums[..., 1])).mean(1).sum()
            (gradient,) = torch.autograd.grad(loss, router)
            with torch.no_grad():
                router -= _RATE * gradient
    network.router = router.detach()

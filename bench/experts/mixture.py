"""A two-layer mixture of experts over patches, one for each seed, trained as one stack: for pruning and for precision.

patches ──> router ──> experts of ReLU neurons ──> mean over patches ──> linear head ──> classes

Routing.EXPERT   every expert takes its l best patches, weighted by a softmax over them
Routing.TOKEN    every patch goes to its best expert, weighted by its probability over all
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["EXPERTS", "Mixture", "Routing", "accuracies"]

EXPERTS = 16


class Routing(enum.StrEnum):
    """Who chooses: the expert its patches, or the patch its expert."""

    EXPERT = "expert choice"
    TOKEN = "token choice"


@dataclass
class Mixture:
    """Stacked networks; tensors are (seeds, ...).

    weights (seeds, experts, pixels, neurons), router (seeds, experts, pixels), head (seeds, neurons, classes);
    alive (seeds, experts): 0 for experts that were pruned.  scale: of the features, before the head.
    """

    routing: Routing
    chosen: int
    weights: Tensor
    router: Tensor
    head: Tensor
    alive: Tensor
    scale: float = 1.0

    @classmethod
    def of(
        cls, seeds: int, routing: Routing, pixels: int, neurons: int, classes: int, *, seed: int = 0, std: float = 0.1,
        scale: float = 1.0,
    ) -> Mixture:  # fmt: skip
        """As they are before training."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, std: float) -> Tensor:
            return torch.randn(seeds, *shape, generator=generator) * std

        weights = normal(EXPERTS, pixels, neurons, std=std)
        router = normal(EXPERTS, pixels, std=0.02 if routing is Routing.EXPERT else 0.1)
        head = normal(EXPERTS * neurons, classes, std=(EXPERTS * neurons) ** -0.5)
        chosen = 2 if routing is Routing.EXPERT else 1
        alive = torch.ones(seeds, EXPERTS)
        return cls(routing, chosen, *(one.requires_grad_() for one in (weights, router, head)), alive, scale)

    @property
    def seeds(self) -> int:
        return self.alive.shape[0]

    @property
    def trained(self) -> list[Tensor]:
        return [self.weights, self.router, self.head]

    def copy(self, head: Tensor | None = None) -> Mixture:
        """The same values in tensors of its own, perhaps with another head."""
        weights, router, own = (one.detach().clone().requires_grad_() for one in self.trained)
        return replace(self, weights=weights, router=router, head=own if head is None else head)

    def without(self, pruned: Tensor) -> Mixture:
        """The same networks; experts `pruned`, (seeds, count), give nothing."""
        return replace(self, alive=torch.ones_like(self.alive).scatter(1, pruned, 0.0))

    def gates(self, x: Tensor) -> Tensor:
        """(seeds, batch, patches, experts)."""
        scores = torch.einsum("sbnd,skd->sbnk", x, self.router)
        if self.routing is Routing.EXPERT:
            best = scores.topk(self.chosen, 2)
            gates = torch.zeros_like(scores).scatter(2, best.indices, best.values.softmax(2))
        else:
            best = scores.softmax(-1).topk(1, -1)
            gates = torch.zeros_like(scores).scatter(-1, best.indices, best.values)
        return gates * self.alive[:, None, None]

    def __call__(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(seeds, batch, patches, pixels) to logits (seeds, batch, classes); with other expert weights, if given."""
        hidden = torch.einsum("sbnd,skdh->sbnkh", x, self.weights if weights is None else weights).relu()
        features = (hidden * self.gates(x)[..., None]).mean(2).flatten(2) * self.scale
        return torch.einsum("sbm,smc->sbc", features, self.head)

    def loss(self, x: Tensor, y: Tensor, balance: float) -> Tensor:
        """Cross entropy, summed over seeds; for token choice with the load balance of the Switch transformer."""
        loss = F.cross_entropy(self(x).flatten(0, 1), y.flatten(), reduction="none").view(self.seeds, -1).mean(1).sum()
        if self.routing is Routing.TOKEN:
            probabilities = torch.einsum("sbnd,skd->sbnk", x, self.router).softmax(-1).flatten(1, 2)
            share = F.one_hot(probabilities.argmax(-1), EXPERTS).float().mean(1)
            loss = loss + balance * EXPERTS * (share * probabilities.mean(1)).sum()
        return loss

    def descend(self, x: Tensor, y: Tensor, epochs: int, rate: float, batch: int = 100) -> Mixture:
        """Plain gradient descent, a tenth of the rate for the head; returns itself."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(epochs):
            for chosen in torch.randperm(x.shape[1], generator=generator).split(batch):
                gradients = torch.autograd.grad(self.loss(x[:, chosen], y[:, chosen], 0.05), self.trained)
                with torch.no_grad():
                    for tensor, gradient in zip(self.trained, gradients, strict=True):
                        tensor -= rate * (0.1 if tensor is self.head else 1.0) * gradient
        return self

    def optimize(self, x: Tensor, y: Tensor, epochs: int, rate: float, adam: bool) -> Mixture:
        """SGD with momentum, or Adam, with a rate that falls to 0; returns itself."""
        optimizer: torch.optim.Optimizer = torch.optim.Adam(self.trained, rate)
        if not adam:
            optimizer = torch.optim.SGD(self.trained, rate, momentum=0.9)
        generator = torch.Generator().manual_seed(0)
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = rate * (1 - epoch / epochs)
            for chosen in torch.randperm(x.shape[1], generator=generator).split(100):
                optimizer.zero_grad()
                self.loss(x[:, chosen], y[:, chosen], 0.02).backward()
                optimizer.step()
        return self


@torch.no_grad()
def accuracies(mixture: Mixture, x: Tensor, y: Tensor, weights: Tensor | None = None) -> list[float]:
    """Of each seed, on its own test set (seeds, n, ...) or on one for all (n, ...)."""
    if x.ndim == 3:
        x, y = x.expand(mixture.seeds, *x.shape), y.expand(mixture.seeds, -1)
    correct = [
        mixture(x[:, at : at + 200], weights).argmax(-1) == y[:, at : at + 200] for at in range(0, x.shape[1], 200)
    ]
    return [float(share) for share in torch.cat(correct, 1).float().mean(1)]

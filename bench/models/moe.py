"""A mixture-of-experts layer, `MoELayer(router, implementation)`: who goes where, and how the work is laid out.

Routers give every token a weight for every expert, zero where it does not go:

    TokenChoice(k)      every token picks its k best experts (Shazeer et al. 2017)
    ExpertChoice(l)     every expert picks its l best tokens (Zhou et al. 2022; Chowdhury et al. 2023 for patches)
    SampleChoice(k)     a sample picks its k best experts for all of its tokens
    DynamicChoice(tau)  the fewest experts whose probabilities reach tau, for a token or a sample (Huang et al. 2024)

Implementations compute the same sum where no expert is over its capacity:

    loop       every expert sees every token; the weights do the rest
    capacity   every expert gathers the tokens that weigh most, as many as it has room for, and scatters back
    grouped    the same with all experts in one batched product
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["IMPLEMENTATIONS", "DynamicChoice", "ExpertChoice", "MoELayer", "Router", "SampleChoice", "TokenChoice"]

IMPLEMENTATIONS = ("loop", "capacity", "grouped")


class Router(Protocol):
    """Turns probabilities (batch, tokens, experts) into weights of the same shape."""

    def weights(self, probabilities: Tensor) -> Tensor: ...

    def share(self, experts: int) -> float:
        """The share of all tokens that an expert gets on average."""
        ...


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """Every token picks `k` experts; their weights add up to one."""

    k: int = 2

    def weights(self, probabilities: Tensor) -> Tensor:
        chosen, experts = probabilities.topk(self.k, -1)
        return torch.zeros_like(probabilities).scatter(-1, experts, chosen / chosen.sum(-1, keepdim=True))

    def share(self, experts: int) -> float:
        return self.k / experts


@dataclass(frozen=True, slots=True)
class ExpertChoice:
    """Every expert picks `share_of_tokens` of the tokens of each sample."""

    share_of_tokens: float = 0.5

    def weights(self, probabilities: Tensor) -> Tensor:
        picks = max(1, int(self.share_of_tokens * probabilities.shape[1]))
        chosen, tokens = probabilities.topk(picks, 1)
        return torch.zeros_like(probabilities).scatter(1, tokens, chosen)

    def share(self, experts: int) -> float:
        return self.share_of_tokens


@dataclass(frozen=True, slots=True)
class SampleChoice:
    """A sample picks `k` experts for all of its tokens, by its mean probabilities."""

    k: int = 2

    def weights(self, probabilities: Tensor) -> Tensor:
        return TokenChoice(self.k).weights(probabilities.mean(1, keepdim=True)).expand_as(probabilities)

    def share(self, experts: int) -> float:
        return self.k / experts


@dataclass(frozen=True, slots=True)
class DynamicChoice:
    """The fewest experts whose probabilities add up to `tau`; for every token, or for every sample."""

    tau: float = 0.6
    per_sample: bool = False

    def weights(self, probabilities: Tensor) -> Tensor:
        seen = probabilities.mean(1, keepdim=True) if self.per_sample else probabilities
        ranked, experts = seen.sort(-1, descending=True)
        needed = ranked.cumsum(-1) - ranked < self.tau
        kept = torch.where(needed, ranked, 0.0)
        kept = kept / kept.sum(-1, keepdim=True)
        return torch.zeros_like(seen).scatter(-1, experts, kept).expand_as(probabilities)

    def share(self, experts: int) -> float:
        return self.tau


class SwiGLU(nn.Module):
    """One expert: a gated feed-forward layer (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class BatchedSwiGLU(nn.Module):
    """All experts at once: (experts, tokens of each, width) to the same shape."""

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.randn(experts, width, hidden) * width**-0.5)
        self.up = nn.Parameter(torch.randn(experts, width, hidden) * width**-0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, width) * hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(F.silu(torch.bmm(x, self.gate)) * torch.bmm(x, self.up), self.down)


class MoELayer(nn.Module):
    """A router and experts over (batch, tokens, width).

    capacity: room of an expert over the tokens that it gets on average; what does not fit is dropped.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        router: Router | None = None,
        implementation: str = "loop",
        capacity: float = 1.25,
    ) -> None:
        super().__init__()
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"implementation {implementation!r} is unknown (there are {', '.join(IMPLEMENTATIONS)})")
        self.router = router or TokenChoice()
        self.implementation, self.capacity = implementation, capacity
        self.gate = nn.Linear(width, experts, bias=False)
        if implementation == "grouped":
            self.batched = BatchedSwiGLU(width, hidden, experts)
        else:
            self.experts = nn.ModuleList(SwiGLU(width, hidden) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router.weights(self.gate(x).softmax(-1))
        if self.implementation == "loop":
            return _sum([weights[..., at : at + 1] * expert(x) for at, expert in enumerate(self.experts)])
        flat, columns = x.flatten(0, 1), weights.flatten(0, 1).T
        share = self.capacity * self.router.share(columns.shape[0])
        room = min(flat.shape[0], max(1, int(share * flat.shape[0])))
        chosen, tokens = columns.topk(room, -1)
        run = self._grouped if self.implementation == "grouped" else self._looped
        return run(flat, chosen, tokens).view_as(x)

    def _looped(self, x: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
        output = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            result = expert(x.index_select(0, tokens[at])) * weights[at, :, None]
            output = output.index_add(0, tokens[at], result)
        return output

    def _grouped(self, x: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
        result = self.batched(x[tokens]) * weights[..., None]
        return torch.zeros_like(x).index_add(0, tokens.flatten(), result.flatten(0, 1))


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)

"""Language models: a GPT around any feed-forward layer, a looped block, and chosen and rejected answers through one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.layers import Block, FeedForward
from bench.models.moe import MoELayer, Router
from bench.models.policies import Policy
from bench.models.workload import Batch

__all__ = ["GPT", "LanguageModel", "Looped", "PreferencePair"]


class LanguageModel(nn.Module):
    """Decoder only: embedding, causal blocks, a head over the vocabulary; returns logits."""

    def __init__(self, sizes: GPT, feed_forward: Callable[[], nn.Module], policy: Policy) -> None:
        super().__init__()
        width = sizes.width
        self.embedding = nn.Embedding(sizes.vocabulary, width)
        blocks = [Block(width, sizes.heads, feed_forward(), causal=True) for _ in range(sizes.layers)]
        self.blocks = nn.ModuleList(policy.wrap(block, at) for at, block in enumerate(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sizes.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class NextToken(nn.Module):
    """The loss of predicting every next token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return F.cross_entropy(self.model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@dataclass(frozen=True, slots=True)
class GPT:
    """A decoder with its logits; with `experts`, a mixture of them in every block (see `bench.models.moe`)."""

    layers: int
    width: int
    batch: int
    tokens: int
    heads: int = 4
    experts: int = 0
    vocabulary: int = 2048
    router: Router | None = None
    implementation: str = "loop"

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Next-token training on random tokens."""
        model = LanguageModel(self, self.feed_forward, policy)
        return NextToken(model), (torch.randint(self.vocabulary, (self.batch, self.tokens)),)

    def feed_forward(self) -> nn.Module:
        """The feed-forward layer of one block."""
        if self.experts:
            return MoELayer(self.width, 2 * self.width, self.experts, self.router, self.implementation)
        return FeedForward(self.width)


class LoopedModel(nn.Module):
    """One block applied again and again to its own output plus the input."""

    def __init__(self, block: nn.Module, loops: int, policy: Policy) -> None:
        super().__init__()
        steps = [policy.wrap(block, at) for at in range(loops)]
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x)
        for step in self.steps:
            state = step(state + x)
        return state.square().mean()


@dataclass(frozen=True, slots=True)
class Looped:
    """A looped transformer (Dehghani et al. 2018; ALBERT ties its layers in the same way): `loops` times one block."""

    loops: int
    width: int
    batch: int
    tokens: int
    heads: int = 4

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Every application is a checkpoint of its own."""
        block = Block(self.width, self.heads, FeedForward(self.width))
        return LoopedModel(block, self.loops, policy), (torch.randn(self.batch, self.tokens, self.width),)


class DirectPreference(nn.Module):
    """The loss of DPO (Rafailov et al. 2023): a model against a frozen reference, on chosen and rejected answers."""

    def __init__(self, model: LanguageModel, reference: LanguageModel) -> None:
        super().__init__()
        self.model, self.reference = model, reference
        self.reference.requires_grad_(False)

    def forward(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        margin = self.advantage(chosen) - self.advantage(rejected)
        return -F.logsigmoid(0.1 * margin).mean()

    def advantage(self, tokens: Tensor) -> Tensor:
        """How much likelier than under the reference each answer is, in log."""
        return log_likelihood(self.model, tokens) - log_likelihood(self.reference, tokens)


def log_likelihood(model: nn.Module, tokens: Tensor) -> Tensor:
    """The summed log-probability of each row of `tokens`."""
    predicted = model(tokens)[:, :-1].log_softmax(-1)
    return predicted.gather(-1, tokens[:, 1:, None]).squeeze(-1).sum(-1)


@dataclass(frozen=True, slots=True)
class PreferencePair(GPT):
    """Chosen and rejected answers, `batch` of each, through one decoder and a frozen reference."""

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """The weights are used twice in the step: once for each answer."""
        model = LanguageModel(self, self.feed_forward, policy)
        reference = LanguageModel(self, self.feed_forward, Policy())
        pairs = torch.randint(self.vocabulary, (2, self.batch, self.tokens))
        return DirectPreference(model, reference), (pairs[0].clone(), pairs[1].clone())

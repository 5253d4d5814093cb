"""The losses that people write over logits of a language model, with the passes that each needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "WHOLE", "WORDS", "Loss"]

WORDS = 64
Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits [batch, length, words] and targets [batch, length]."""


def _flat(logits: Tensor) -> Tensor:
    return logits.reshape(-1, logits.shape[-1])


def _log_probabilities(logits: Tensor, y: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)


def _with_z_loss(logits: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(_flat(logits), y.flatten()) + 1e-4 * logits.logsumexp(-1).square().mean()


def _preference(logits: Tensor, y: Tensor) -> Tensor:
    """DPO: the first half of the batch is to be likelier than the second."""
    chosen, rejected = _log_probabilities(logits, y).sum(-1).chunk(2)
    return -functional.logsigmoid(0.1 * (chosen - rejected)).mean()


def _policy_gradient(logits: Tensor, y: Tensor) -> Tensor:
    """GRPO: a clipped ratio for each token, times an advantage, over a mask."""
    log_probabilities = _log_probabilities(logits, y)
    ratio, advantage = (log_probabilities - log_probabilities.detach()).exp(), (y.to(logits.dtype) - 32) / 10
    mask = (y > 3).to(logits.dtype)
    return -(torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) * mask).sum() / mask.sum()


def _focal(logits: Tensor, y: Tensor) -> Tensor:
    each = functional.cross_entropy(_flat(logits), y.flatten(), reduction="none")
    return ((1 - (-each).exp()) ** 2 * each).mean()


def _mean_of_each_sequence(logits: Tensor, y: Tensor) -> Tensor:
    each = functional.cross_entropy(logits.mT, y, reduction="none")
    return (each.sum(-1) / (y > 3).sum(-1)).mean()


def _with_entropy(logits: Tensor, y: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return functional.cross_entropy(_flat(logits), y.flatten()) + 0.01 * (p * p.log()).sum(-1).mean()


LOSSES: dict[str, tuple[Loss, int]] = {
    "cross entropy": (lambda x, y: functional.cross_entropy(_flat(x), y.flatten()), 1),
    "with ignored targets": (lambda x, y: functional.cross_entropy(_flat(x), y.flatten(), ignore_index=3), 1),
    "label smoothing": (lambda x, y: functional.cross_entropy(_flat(x), y.flatten(), label_smoothing=0.1), 1),
    "class weights": (
        lambda x, y: functional.cross_entropy(_flat(x), y.flatten(), weight=torch.linspace(1, 2, WORDS, dtype=x.dtype)),
        1,
    ),
    "words first": (lambda x, y: functional.cross_entropy(x.mT, y), 1),
    "z-loss": (_with_z_loss, 1),
    "capped": (lambda x, y: functional.cross_entropy(_flat(torch.tanh(x / 30) * 30), y.flatten()), 1),
    "of some words": (lambda x, y: functional.cross_entropy(_flat(x[..., :50]), y.flatten().clamp(max=49)), 1),
    "sum over a number": (lambda x, y: functional.cross_entropy(_flat(x), y.flatten(), reduction="sum") / 100, 1),
    "focal": (_focal, 1),
    "mean of each sequence": (_mean_of_each_sequence, 1),
    "entropy": (_with_entropy, 1),
    "policy gradient": (_policy_gradient, 1),
    "one-hot targets": (lambda x, y: -(functional.one_hot(y, WORDS) * x.log_softmax(-1)).sum(-1).mean(), 1),
    "each word apart": (
        lambda x, y: functional.binary_cross_entropy_with_logits(x, functional.one_hot(y, WORDS).to(x.dtype)),
        1,
    ),
    "distillation": (
        lambda x, y: functional.kl_div(x.log_softmax(-1), (x.detach() / 2).softmax(-1), reduction="batchmean"),
        1,
    ),
    "preference": (_preference, 2),
    "a loss for each token": (
        lambda x, y: functional.cross_entropy(_flat(x), y.flatten(), reduction="none"),
        2,
    ),
}

WHOLE: dict[str, Loss] = {
    "normalized over tokens": lambda x, y: functional.cross_entropy(_flat(x).softmax(0), y.flatten()),
    "sorted over tokens": lambda x, y: _flat(x).sort(0).values.square().mean(),
}

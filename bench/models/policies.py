"""Activation checkpointing as a parameter: what of the forward pass is kept for the backward pass, what is recomputed.

    none         everything that autograd wants is saved
    block        every block is recomputed from its input (Chen et al. 2016)
    second       every second block is
    selective    every block is, but the results of its products and convolutions are saved
    budget-0.5   nothing is marked; AOTAutograd's partitioner may save half of what it would (activation_memory_budget)

Checkpoints are non-reentrant: the others do not compile to one graph.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

__all__ = ["POLICIES", "Checkpointed", "Policy", "checkpointed", "parse_policy"]

_aten = torch.ops.aten
_PRODUCTS = (
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.convolution.default,
)

POLICIES = ("none", "block", "second", "selective", "budget-0.3", "budget-0.5", "budget-0.7")
"""The policies of a sweep; `budget-` takes any share from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy by its name; `budget` is the share that the partitioner may save, where that is the policy."""

    name: str = "none"
    budget: float | None = None

    def wrap(self, block: nn.Module, index: int) -> nn.Module:
        """Block number `index` of a model, checkpointed if the policy says so."""
        run = self.function(index)
        return block if run is None else Checkpointed(block, run)

    def function(self, index: int) -> Callable[..., Any] | None:
        """What runs block `index`, as `run(block, *inputs)`; None where the policy leaves it alone."""
        if self.name == "block" or (self.name == "second" and index % 2 == 0):
            return checkpointed
        return _selective if self.name == "selective" else None

    def settings(self) -> contextlib.AbstractContextManager[Any]:
        """The compiler's settings that belong to the policy; to be held while the model is compiled."""
        import torch._functorch.config as functorch

        if self.budget is None:
            return contextlib.nullcontext()
        return functorch.patch(activation_memory_budget=self.budget)


class Checkpointed(nn.Module):
    """A block that runs under a checkpoint."""

    def __init__(self, block: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self.block, self.run = block, run

    def forward(self, *inputs: Any) -> Any:
        return self.run(self.block, *inputs)


def checkpointed(block: Callable[..., Any], *inputs: Any) -> Any:
    """`block(*inputs)` under non-reentrant activation checkpointing: recomputed in the backward pass."""
    return checkpoint(block, *inputs, use_reentrant=False)


def parse_policy(name: str) -> Policy:
    """The policy of that name; raises ValueError, one line."""
    share = name.removeprefix("budget-")
    if share != name:
        with contextlib.suppress(ValueError):
            if 0 <= float(share) <= 1:
                return Policy(name, float(share))
    elif name in POLICIES:
        return Policy(name)
    raise ValueError(f"checkpoint policy {name!r} is unknown (there are {', '.join(POLICIES)})")


def _selective(block: Callable[..., Any], *inputs: Any) -> Any:
    contexts = functools.partial(create_selective_checkpoint_contexts, _save_products)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


def _save_products(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE

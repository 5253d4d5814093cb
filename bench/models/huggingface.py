"""Models of Hugging Face transformers, built from their configurations with random weights; nothing is downloaded.

Each compiles to one graph: `use_cache=False`, experts in one grouped or batched product, no output but the loss.
Checkpointing sets what `gradient_checkpointing_enable` sets, layer by layer, so that a policy can choose among them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.policies import Policy
from bench.models.workload import Batch

__all__ = ["HuggingFace", "Loss"]


class Loss(nn.Module):
    """A model that is given its tokens as labels too, and its loss alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, labels=tokens).loss


@dataclass(frozen=True, slots=True)
class HuggingFace:
    """A model by the name of its class in transformers, and of its configuration.

    config: what differs from the defaults of the configuration; dropout is off, so that runs can be compared.
    """

    architecture: str
    layers: int
    width: int
    batch: int
    tokens: int
    heads: int = 4
    vocabulary: int = 2048
    config: dict[str, Any] = field(default_factory=dict)

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """Training on random tokens; raises ImportError without transformers."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import transformers

        architecture = getattr(transformers, self.architecture)
        config = architecture.config_class(**self._settings())
        model = architecture._from_config(config)
        model.train()
        _checkpoint_layers(model, policy)
        return Loss(model), (torch.randint(self.vocabulary, (self.batch, self.tokens)),)

    def _settings(self) -> dict[str, Any]:
        common = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": max(512, self.tokens),
            "use_cache": False,
            "attn_implementation": "sdpa",
        }
        return common | self.config


def _checkpoint_layers(model: nn.Module, policy: Policy) -> None:
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for at, layer in enumerate(layers):
        run = policy.function(at)
        layer.gradient_checkpointing = run is not None
        layer._gradient_checkpointing_func = run

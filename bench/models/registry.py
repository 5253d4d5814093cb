"""The registry: every model by its name, its suites, and its three sizes.

ac: models that are trained with activation checkpointing, in the forms that people use; among them those whose weights
are used more than once in a step.  They are checkpointed by block unless a sweep says otherwise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bench.models.huggingface import HuggingFace
from bench.models.language import GPT, Looped, PreferencePair
from bench.models.policies import parse_policy
from bench.models.segmentation import UNet
from bench.models.shared_weights import Contrastive, Siamese, Traversal
from bench.models.workload import SIZES, Entry, Workload

__all__ = ["DEMO", "DEMO_MODELS", "MODELS", "build"]

DEMO_MODELS = ("moe", "contrastive", "traversal", "gpt")
"""What `python -m bench.demo --models all` runs."""

DEMO = DEMO_MODELS[:2]
"""What it runs by default."""


def _gated(width: int) -> dict[str, Any]:
    """The feed-forward layer of Llama and its descendants."""
    return {"intermediate_size": 2 * width, "num_key_value_heads": 4}


_MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "grouped_mm"}


def _deepseek(width: int, experts: int) -> dict[str, Any]:
    """One dense layer, then layers of routed experts; low-rank attention in the proportions of the published model."""
    return {
        "num_key_value_heads": 4 if width <= 256 else 16,
        "q_lora_rank": width // 4,
        "kv_lora_rank": width // 8,
        "qk_rope_head_dim": width // 16,
        "qk_nope_head_dim": width // 8,
        "v_head_dim": width // 8,
        "n_routed_experts": experts,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 2,
        "moe_intermediate_size": width,
        "first_k_dense_replace": 1,
        "experts_implementation": "grouped_mm",
    }


def _bert(width: int) -> dict[str, Any]:
    return {"intermediate_size": 4 * width, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


_SHARED = ("ac", "shared")

_ENTRIES = (
    Entry(
        "gpt", ("smoke", "ac"),
        small=GPT(2, 32, 2, 16),
        cpu=GPT(4, 256, 4, 128),
        cuda=GPT(12, 768, 8, 1024, 12, vocabulary=32768),
        policy="block",
    ),
    Entry(
        "moe", ("smoke", "ac", "moe"),
        small=GPT(1, 32, 2, 16, experts=4),
        cpu=GPT(2, 256, 4, 128, experts=4),
        cuda=GPT(8, 1024, 16, 1024, 16, experts=8, vocabulary=32768),
        policy="block",
    ),
    Entry(
        "contrastive", ("smoke", *_SHARED),
        small=Contrastive(2, 32, 2, 16),
        cpu=Contrastive(4, 128, 8, 96),
        cuda=Contrastive(12, 768, 64, 196, 12),
        policy="block",
    ),
    Entry(
        "siamese", _SHARED,
        small=Siamese(2, 8, 2, 16),
        cpu=Siamese(2, 32, 8, 64),
        cuda=Siamese(4, 64, 64, 224),
        policy="block",
    ),
    Entry(
        "preference", _SHARED,
        small=PreferencePair(1, 32, 2, 16),
        cpu=PreferencePair(2, 256, 2, 128),
        cuda=PreferencePair(12, 768, 4, 1024, 12, vocabulary=32768),
        policy="block",
    ),
    Entry(
        "looped", _SHARED,
        small=Looped(2, 32, 2, 16),
        cpu=Looped(6, 192, 8, 96),
        cuda=Looped(12, 1024, 16, 1024, 16),
        policy="block",
    ),
    Entry(
        "traversal", _SHARED,
        small=Traversal(2, 32, 2, 16, context=16),
        cpu=Traversal(6, 128, 4, 128, context=64),
        cuda=Traversal(12, 768, 16, 512, context=256, heads=12),
        policy="block",
    ),
    Entry(
        "unet", ("smoke", "ac"),
        small=UNet(2, 8, 2, 16),
        cpu=UNet(3, 16, 4, 64),
        cuda=UNet(4, 64, 16, 256),
        policy="block",
    ),
    Entry(
        "hf_llama", ("ac", "hf"),
        small=HuggingFace("LlamaForCausalLM", 1, 32, 2, 16, config=_gated(32)),
        cpu=HuggingFace("LlamaForCausalLM", 3, 256, 4, 128, config=_gated(256)),
        cuda=HuggingFace("LlamaForCausalLM", 16, 2048, 4, 2048, 32, 32000, _gated(2048) | {"num_key_value_heads": 8}),
        policy="block",
    ),
    Entry(
        "hf_mixtral", ("ac", "hf", "moe"),
        small=HuggingFace("MixtralForCausalLM", 1, 32, 2, 16, config=_gated(32) | _MIXTRAL),
        cpu=HuggingFace("MixtralForCausalLM", 2, 256, 4, 128, config=_gated(256) | _MIXTRAL),
        cuda=HuggingFace("MixtralForCausalLM", 8, 1024, 8, 1024, 16, 32000, _gated(1024) | _MIXTRAL),
        policy="block",
    ),
    Entry(
        "hf_deepseek_v3", ("ac", "hf", "moe"),
        small=HuggingFace("DeepseekV3ForCausalLM", 2, 32, 2, 16, config=_gated(32) | _deepseek(32, 4)),
        cpu=HuggingFace("DeepseekV3ForCausalLM", 2, 256, 4, 128, config=_gated(256) | _deepseek(256, 8)),
        cuda=HuggingFace(
            "DeepseekV3ForCausalLM", 8, 1024, 8, 1024, 16, 32000, _gated(1024) | _deepseek(1024, 16)
        ),
        policy="block",
    ),
    Entry(
        "hf_bert", ("smoke", "ac", "hf"),
        small=HuggingFace("BertForMaskedLM", 1, 32, 2, 16, config=_bert(32)),
        cpu=HuggingFace("BertForMaskedLM", 3, 256, 4, 128, config=_bert(256)),
        cuda=HuggingFace("BertForMaskedLM", 12, 768, 32, 512, 12, 30522, _bert(768)),
        policy="block",
    ),
)  # fmt: skip

MODELS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every model by name."""


def build(
    name: str,
    size: str = "cpu",
    device: str = "cpu",
    seed: int = 0,
    *,
    policy: str | None = None,
    batch: int | None = None,
) -> Workload:
    """The workload `name` at one of its sizes, the same weights and batch for the same seed.

    policy: a checkpoint policy instead of the model's own; batch: a batch size instead of the configuration's.

    Raises:
        ValueError: an unknown name, size or policy, or a batch size below one; one line.
        ImportError: the model needs a package that is not installed.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is unknown (there are {', '.join(MODELS)})")
    entry = MODELS[name]
    if size not in SIZES:
        raise ValueError(f"model {name!r} has no size {size!r} (there are {', '.join(SIZES)})")
    configuration = entry.sizes[size]
    if batch is not None:
        if batch < 1:
            raise ValueError(f"batch size {batch} is not 1 or more")
        configuration = dataclasses.replace(configuration, batch=batch)
    chosen = parse_policy(policy or entry.policy)
    torch.manual_seed(seed)
    model, inputs = configuration.build(chosen)
    return Workload(name, model.to(device), tuple(tensor.to(device) for tensor in inputs), chosen)

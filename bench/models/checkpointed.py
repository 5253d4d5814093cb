"""The twelve models that people train with activation checkpointing; many use their weights more than once."""

from __future__ import annotations

from typing import Any

from bench.models.huggingface import HuggingFace
from bench.models.language import GPT, Looped, PreferencePair
from bench.models.segmentation import UNet
from bench.models.shared_weights import Contrastive, Siamese, Traversal
from bench.models.workload import Entry

__all__ = ["CHECKPOINTED", "bert", "gated"]


def gated(width: int) -> dict[str, Any]:
    """The feed-forward layer of Llama and its descendants."""
    return {"intermediate_size": 2 * width, "num_key_value_heads": 4}


MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "grouped_mm"}


def deepseek(width: int, experts: int) -> dict[str, Any]:
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


def bert(width: int) -> dict[str, Any]:
    return {"intermediate_size": 4 * width, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


SHARED = ("ac", "shared")

CHECKPOINTED = (
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
        "contrastive", ("smoke", *SHARED),
        small=Contrastive(2, 32, 2, 16),
        cpu=Contrastive(4, 128, 8, 96),
        cuda=Contrastive(12, 768, 64, 196, 12),
        policy="block",
    ),
    Entry(
        "siamese", SHARED,
        small=Siamese(2, 8, 2, 16),
        cpu=Siamese(2, 32, 8, 64),
        cuda=Siamese(4, 64, 64, 224),
        policy="block",
    ),
    Entry(
        "preference", SHARED,
        small=PreferencePair(1, 32, 2, 16),
        cpu=PreferencePair(2, 256, 2, 128),
        cuda=PreferencePair(12, 768, 4, 1024, 12, vocabulary=32768),
        policy="block",
    ),
    Entry(
        "looped", SHARED,
        small=Looped(2, 32, 2, 16),
        cpu=Looped(6, 192, 8, 96),
        cuda=Looped(12, 1024, 16, 1024, 16),
        policy="block",
    ),
    Entry(
        "traversal", SHARED,
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
        small=HuggingFace("LlamaForCausalLM", 1, 32, 2, 16, config=gated(32)),
        cpu=HuggingFace("LlamaForCausalLM", 3, 256, 4, 128, config=gated(256)),
        cuda=HuggingFace("LlamaForCausalLM", 16, 2048, 4, 2048, 32, 32000, gated(2048) | {"num_key_value_heads": 8}),
        policy="block",
    ),
    Entry(
        "hf_mixtral", ("ac", "hf", "moe"),
        small=HuggingFace("MixtralForCausalLM", 1, 32, 2, 16, config=gated(32) | MIXTRAL),
        cpu=HuggingFace("MixtralForCausalLM", 2, 256, 4, 128, config=gated(256) | MIXTRAL),
        cuda=HuggingFace("MixtralForCausalLM", 8, 1024, 8, 1024, 16, 32000, gated(1024) | MIXTRAL),
        policy="block",
    ),
    Entry(
        "hf_deepseek_v3", ("ac", "hf", "moe"),
        small=HuggingFace("DeepseekV3ForCausalLM", 2, 32, 2, 16, config=gated(32) | deepseek(32, 4)),
        cpu=HuggingFace("DeepseekV3ForCausalLM", 2, 256, 4, 128, config=gated(256) | deepseek(256, 8)),
        cuda=HuggingFace(
            "DeepseekV3ForCausalLM", 8, 1024, 8, 1024, 16, 32000, gated(1024) | deepseek(1024, 16)
        ),
        policy="block",
    ),
    Entry(
        "hf_bert", ("smoke", "ac", "hf"),
        small=HuggingFace("BertForMaskedLM", 1, 32, 2, 16, config=bert(32)),
        cpu=HuggingFace("BertForMaskedLM", 3, 256, 4, 128, config=bert(256)),
        cuda=HuggingFace("BertForMaskedLM", 12, 768, 32, 512, 12, 30522, bert(768)),
        policy="block",
    ),
)  # fmt: skip

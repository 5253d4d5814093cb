"""All other models: views, mixtures of experts, images, irregular wiring, Hugging Face, numerical programs."""

from __future__ import annotations

from typing import Any

from bench.models.cells import DARTS, HRNet, NASNet, RandWire, SwiftNet
from bench.models.checkpointed import bert, gated
from bench.models.huggingface import HuggingFace
from bench.models.images import VGG, AlexNet, ConvNeXt, DenseNet, ResNet, SqueezeNet
from bench.models.language import GPT
from bench.models.moe import DynamicChoice, ExpertChoice, Router, SampleChoice
from bench.models.numeric import Stencil, Unrolled
from bench.models.views import CLIP, MultiCrop, SimCLR
from bench.models.vision_transformer import VisionTransformer
from bench.models.workload import Entry

__all__ = ["OTHERS"]


def _experts(name: str, router: Router | None, implementation: str) -> Entry:
    """A decoder with experts in every block."""
    how = {"router": router, "implementation": implementation}
    return Entry(
        name, ("moe",),
        small=GPT(1, 32, 2, 16, experts=4, **how),
        cpu=GPT(2, 256, 4, 128, experts=4, **how),
        cuda=GPT(8, 1024, 16, 1024, 16, experts=8, vocabulary=32768, **how),
        policy="block",
    )  # fmt: skip


def _random_wiring(wiring: str) -> Entry:
    return Entry(
        f"randwire_{wiring}", ("irregular",),
        small=RandWire(2, 16, 8, wiring=wiring, nodes=8, stages=1),
        cpu=RandWire(8, 64, 32, wiring=wiring),
        cuda=RandWire(64, 224, 109, 1000, wiring=wiring, nodes=32, stages=4),
    )  # fmt: skip


_VIEWS = (
    Entry(
        "clip", ("shared",),
        small=CLIP(1, 32, 2, 16, 8),
        cpu=CLIP(2, 192, 16, 64, 48),
        cuda=CLIP(12, 768, 128, 224, 77, 12, 16, 49408),
        policy="block",
    ),
    Entry(
        "simclr", ("shared",),
        small=SimCLR(2, 8, 2, 16),
        cpu=SimCLR(3, 32, 8, 64),
        cuda=SimCLR(4, 64, 128, 224),
    ),
    Entry(
        "multi_crop", ("shared",),
        small=MultiCrop(1, 32, 2, 32, crops=2, prototypes=64),
        cpu=MultiCrop(2, 128, 8, 64, crops=2),
        cuda=MultiCrop(12, 384, 32, 224, 6, 6, 16, 65536),
        policy="block",
    ),
)  # fmt: skip

_EXPERTS = (
    _experts("moe_capacity", None, "capacity"),
    _experts("moe_grouped", None, "grouped"),
    _experts("moe_expert_choice", ExpertChoice(0.5), "capacity"),
    _experts("moe_sample", SampleChoice(2), "loop"),
    _experts("moe_dynamic", DynamicChoice(0.6), "loop"),
    _experts("moe_dynamic_sample", DynamicChoice(0.6, per_sample=True), "grouped"),
    Entry(
        "vision_moe", ("moe",),
        small=VisionTransformer(2, 32, 2, 32, experts=4),
        cpu=VisionTransformer(4, 192, 8, 64, experts=4),
        cuda=VisionTransformer(12, 768, 128, 224, 12, 16, 16, 1000),
        policy="block",
    ),
    Entry(
        "wide_resnet_moe", ("moe",),
        small=ResNet(2, 16, 8, depth=1, stages=2, factor=2, experts=4),
        cpu=ResNet(8, 32, 16, depth=1, factor=4, experts=4),
        cuda=ResNet(128, 32, 16, depth=4, factor=10, experts=8),
    ),
)  # fmt: skip

_IMAGES = (
    Entry(
        "vision_transformer", ("images",),
        small=VisionTransformer(2, 32, 2, 32),
        cpu=VisionTransformer(4, 192, 8, 64),
        cuda=VisionTransformer(12, 768, 128, 224, 12, 16, classes=1000),
        policy="block",
    ),
    Entry(
        "resnet", ("smoke", "images"),
        small=ResNet(2, 16, 8, depth=1, stages=2),
        cpu=ResNet(8, 64, 32),
        cuda=ResNet(128, 224, 64, 1000, depth=2, stages=4),
    ),
    Entry(
        "wide_resnet", ("images",),
        small=ResNet(2, 16, 8, depth=1, stages=2, factor=2),
        cpu=ResNet(8, 32, 16, depth=1, factor=6),
        cuda=ResNet(128, 32, 16, depth=4, factor=10),
    ),
    Entry("densenet", ("images", "irregular"), DenseNet(2, 16, 8, layers=3, stages=1), DenseNet(8, 64, 16),
          DenseNet(64, 224, 32, 1000, layers=12, stages=4)),
    Entry("convnext", ("images",), ConvNeXt(2, 16, 8, depth=1, stages=2), ConvNeXt(8, 64, 48),
          ConvNeXt(64, 224, 96, 1000, depth=3, stages=4)),
    Entry("alexnet", ("images",), AlexNet(2, 48, 4), AlexNet(8, 96, 16), AlexNet(128, 224, 64, 1000)),
    Entry("vgg", ("images",), VGG(2, 16, 8), VGG(8, 64, 32), VGG(64, 224, 64, 1000, 5)),
    Entry("squeezenet", ("images", "irregular"), SqueezeNet(2, 32, 8, stages=2), SqueezeNet(8, 64, 32),
          SqueezeNet(128, 224, 64, 1000, 4)),
)  # fmt: skip

_IRREGULAR = (
    *(_random_wiring(wiring) for wiring in ("ws", "ba", "er")),
    Entry("darts", ("smoke", "irregular"), DARTS(2, 16, 8, 1), DARTS(8, 64, 16), DARTS(64, 224, 48, 14, 1000)),
    Entry("nasnet", ("irregular",), NASNet(2, 16, 8, 1), NASNet(8, 64, 16), NASNet(64, 224, 44, 12, 1000)),
    Entry("swiftnet", ("irregular",), SwiftNet(2, 16, 8, cells=1), SwiftNet(8, 64, 16),
          SwiftNet(64, 224, 32, 1000, 4)),
    Entry("hrnet", ("irregular",), HRNet(2, 16, 8, 2, 1), HRNet(4, 64, 16), HRNet(16, 512, 32, 4, 4, 19)),
)  # fmt: skip


def _hugging_face(
    name: str, architecture: str, suites: tuple[str, ...], config: dict[int, dict[str, Any]], policy: str = "none"
) -> Entry:
    """Three sizes of one architecture; `config` by width."""
    return Entry(
        name, ("hf", *suites),
        small=HuggingFace(architecture, 1, 32, 2, 16, config=config[32]),
        cpu=HuggingFace(architecture, 2, 256, 4, 128, config=config[256]),
        cuda=HuggingFace(architecture, 12, 1024, 16, 1024, 16, 32000, config[1024]),
        policy=policy,
    )  # fmt: skip


_WIDTHS = (32, 256, 1024)
_ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "grouped_mm"}


def _each(config: Any) -> dict[int, dict[str, Any]]:
    return {width: config(width) for width in _WIDTHS}


def _deberta(width: int) -> dict[str, Any]:
    own = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32, "legacy": False}
    return bert(width) | own | {"attn_implementation": "eager"}


def _mamba2(width: int) -> dict[str, Any]:
    heads = {"num_heads": width // 16, "head_dim": 32, "state_size": 16, "n_groups": 1, "chunk_size": 16}
    return heads | {"attn_implementation": "eager", "bos_token_id": 0, "eos_token_id": 0}


def _t5(width: int) -> dict[str, Any]:
    return {"d_ff": 4 * width, "d_kv": width // 4, "dropout_rate": 0.0, "decoder_start_token_id": 0}


_HUGGING_FACE = (
    _hugging_face("hf_qwen3_moe", "Qwen3MoeForCausalLM", ("moe",), _each(
        lambda width: gated(width) | _ROUTED | {"moe_intermediate_size": width, "head_dim": width // 4})),
    _hugging_face("hf_olmoe", "OlmoeForCausalLM", ("moe",), _each(lambda width: gated(width) | _ROUTED)),
    _hugging_face("hf_deberta", "DebertaV2ForMaskedLM", (), _each(_deberta)),
    _hugging_face("hf_albert", "AlbertForMaskedLM", ("shared",), _each(
        lambda width: bert(width) | {"embedding_size": width // 2})),
    _hugging_face("hf_t5", "T5ForConditionalGeneration", (), _each(_t5)),
    _hugging_face("hf_mamba2", "Mamba2ForCausalLM", ("irregular",), _each(_mamba2)),
)  # fmt: skip

_NUMERIC = (
    Entry("unrolled", ("irregular",), Unrolled(3, 16, 32, 4), Unrolled(12, 256, 512, 256),
          Unrolled(32, 2048, 4096, 8192)),
    Entry("stencil", ("irregular",), Stencil(1, 1, 8, 8), Stencil(2, 1, 64, 32), Stencil(4, 4, 256, 64)),
)  # fmt: skip

OTHERS: tuple[Entry, ...] = (*_VIEWS, *_EXPERTS, *_IMAGES, *_IRREGULAR, *_HUGGING_FACE, *_NUMERIC)
"""The models besides those of `checkpointed.py`."""

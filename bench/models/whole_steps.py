"""The models of `python -m bench whole-steps`: as people train them, with checkpoints and without.

Vocabularies are large beside the width where it says so, as those of published models are: there the logits and the
gradient of the head bind, elsewhere the saved activations or the last gradients.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from bench.models.cells import DARTS
from bench.models.checkpointed import bert, gated
from bench.models.huggingface import HuggingFace
from bench.models.images import ConvNeXt, ResNet
from bench.models.language import GPT, Looped
from bench.models.policies import Policy, parse_policy
from bench.models.shared_weights import Contrastive, Siamese, Traversal
from bench.models.vision_transformer import VisionTransformer
from bench.models.workload import Batch, Configuration

__all__ = ["WHOLE_STEP_MODELS"]

_Build = Callable[[], tuple[nn.Module, Batch]]


def _with(configuration: Configuration, policy: str = "none") -> _Build:
    return lambda: configuration.build(parse_policy(policy))


def _tied(sizes: GPT) -> _Build:
    """The head is the embedding."""

    def build() -> tuple[nn.Module, Batch]:
        model, batch = sizes.build(Policy())
        model.model.head.weight = model.model.embedding.weight  # type: ignore[union-attr]
        return model, batch

    return build


def _llama(vocabulary: int, **more: object) -> HuggingFace:
    return HuggingFace("LlamaForCausalLM", 3, 128, 2, 128, vocabulary=vocabulary, config=gated(128) | more)


WHOLE_STEP_MODELS: dict[str, _Build] = {
    "gpt, 1k words": _with(GPT(4, 128, 4, 128, vocabulary=1024)),
    "gpt, 1k words, tied": _tied(GPT(3, 128, 4, 128, vocabulary=1024)),
    "gpt, 8k words": _with(GPT(3, 128, 4, 128, vocabulary=8192)),
    "gpt, 8k words, checkpoints": _with(GPT(3, 128, 4, 128, vocabulary=8192), "block"),
    "gpt, 8k words, tied": _tied(GPT(3, 128, 4, 128, vocabulary=8192)),
    "gpt, 128k words": _with(GPT(2, 64, 2, 64, vocabulary=128256)),
    "llama, 2k words": _with(_llama(2048)),
    "llama, 2k words, checkpoints": _with(_llama(2048), "block"),
    "llama, 32k words": _with(_llama(32000)),
    "llama, 32k words, tied": _with(_llama(32000, tie_word_embeddings=True)),
    "bert, 8k words": _with(HuggingFace("BertForMaskedLM", 3, 128, 4, 128, vocabulary=8192, config=bert(128))),
    "mixture, 4 experts": _with(GPT(2, 128, 4, 64, experts=4)),
    "mixture, 4 experts, checkpoints": _with(GPT(2, 128, 4, 64, experts=4), "block"),
    "contrastive tower": _with(Contrastive(3, 96, 8, 64)),
    "contrastive tower, checkpoints": _with(Contrastive(3, 96, 8, 64), "block"),
    "looped block": _with(Looped(4, 96, 4, 64)),
    "two traversals, checkpoints": _with(Traversal(3, 96, 4, 64, context=32), "block"),
    "siamese, images": _with(Siamese(2, 16, 4, 32)),
    "vision transformer": _with(VisionTransformer(4, 96, 8, 64)),
    "resnet": _with(ResNet(4, 32, 16, depth=1, stages=2)),
    "darts cells": _with(DARTS(2, 16, 8, 1)),
    "convnext": _with(ConvNeXt(4, 32, 16, depth=1, stages=2)),
}
"""Each builds the model, whose forward returns its loss, and one batch."""

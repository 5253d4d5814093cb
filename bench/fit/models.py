"""The models of `python -m bench fit`, as people train them: no checkpoint of the user's unless a policy says so.

Vocabularies are as large, beside the width, as those of published models: there the logits are what binds.  No U-Net is
among them: its pooling reads indices back that a kernel which does nothing has never written.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from bench.models.checkpointed import bert, gated
from bench.models.huggingface import HuggingFace
from bench.models.language import GPT
from bench.models.policies import Policy
from bench.models.shared_weights import Contrastive
from bench.models.vision_transformer import VisionTransformer
from bench.models.workload import Batch

__all__ = ["FIT_MODELS"]

_Build = Callable[[Policy], tuple[nn.Module, Batch]]


def _adapters(policy: Policy) -> tuple[nn.Module, Batch]:
    """Low-rank adapters in every attention of a frozen Llama (peft)."""
    from peft import LoraConfig, get_peft_model

    model, batch = HuggingFace("LlamaForCausalLM", 3, 128, 4, 128, vocabulary=8192, config=gated(128)).build(policy)
    model.model = get_peft_model(model.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    return model, batch


FIT_MODELS: dict[str, _Build] = {
    "gpt, 8k words": GPT(4, 128, 4, 256, vocabulary=8192).build,
    "llama, 32k words": HuggingFace("LlamaForCausalLM", 3, 128, 2, 256, vocabulary=32000, config=gated(128)).build,
    "gpt, 128k words": GPT(2, 64, 2, 128, vocabulary=128256).build,
    "mixture, 4 experts": GPT(3, 128, 4, 128, experts=4).build,
    "vision transformer": VisionTransformer(6, 96, 8, 96).build,
    "contrastive tower": Contrastive(4, 96, 8, 64).build,
    "bert, 8k words": HuggingFace("BertForMaskedLM", 3, 128, 4, 128, vocabulary=8192, config=bert(128)).build,
    "llama, adapters": _adapters,
}
"""Each builds the model, whose forward returns its loss, and one batch."""

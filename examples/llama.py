"""Llama at its real size, planned for a GPU that is not here: nothing of it is ever allocated.

    memsched plan examples/llama.py:step --gpu h100                          1B, one sequence of 2,048 tokens
    memsched plan examples/llama.py:step --vary shape=1B,7B,8B --train-step  a row for each
    python examples/llama.py                                                 the same at tiny size, on the CPU

As people train it: bfloat16, a checkpoint per block, AdamW.  Needs transformers.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import memsched

SHAPES = {
    "tiny": (64, 128, 2, 4, 4, 1024, False),
    "1B": (2048, 8192, 16, 32, 8, 128256, True),
    "7B": (4096, 11008, 32, 32, 32, 32000, False),
    "8B": (4096, 14336, 32, 32, 8, 128256, False),
}
"""Width, width inside of an MLP, layers, heads, heads of keys, words, tied or not: Llama 3.2 1B, 2 7B and 3.1 8B."""


def step(
    shape: str = "1B", length: int = 2048, batch_size: int = 1, layers: int = 0, fused: bool = False
) -> tuple[torch.nn.Module, dict[str, torch.Tensor], torch.optim.Optimizer]:
    """A model, a batch and an optimizer.  layers: of the model, if not all; fused: AdamW in one kernel."""
    width, inner, all_layers, heads, key_heads, words, tied = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers or all_layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=words,
        tie_word_embeddings=tied,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = torch.zeros(batch_size, length, dtype=torch.long)
    batch = {"input_ids": tokens, "labels": tokens}
    return model.train(), batch, torch.optim.AdamW(model.parameters(), fused=fused)


def main() -> None:
    model, batch, optimizer = step("tiny", length=32)
    print(memsched.train_step(model, optimizer).plan(**batch))


if __name__ == "__main__":
    main()

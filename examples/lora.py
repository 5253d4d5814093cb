"""Fine-tuning with adapters: a frozen base under peft's LoRA, forward, backward and update in one plan.

python examples/lora.py
"""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import memsched


def main() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, use_cache=False, **sizes))
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    step = memsched.train_step(model, torch.optim.AdamW(trained, lr=1e-2))
    tokens = torch.randint(64, (4, 16))
    batch = {"input_ids": tokens, "labels": tokens}  # a batch as a data loader makes it; the loss is the model's own
    losses = [float(step(batch)) for _ in range(5)]
    assert losses[-1] < losses[0]
    print(step.report)


if __name__ == "__main__":
    main()

"""memsched under Hugging Face's Trainer, which compiles by itself.   python examples/hf_trainer.py

`install` plans every compile of the process until `uninstall`; `torch_compile=True` is all that Trainer is told.
`log_peaks` puts the planned peaks into its logs, and so into W&B, TensorBoard or whatever it reports to.
"""

from __future__ import annotations

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import memsched


class Tokens(Dataset[dict[str, torch.Tensor]]):
    """A few random sentences."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(64, (16,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, use_cache=False, **sizes))
    memsched.install()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=4, max_steps=2, torch_compile=True, report_to=[], save_strategy="no"
        )
        trainer = Trainer(model, arguments, train_dataset=Tokens())
        memsched.log_peaks(trainer)
        trainer.train()
    memsched.uninstall()
    peaks = [entry for entry in trainer.state.log_history if any(name.startswith("memsched") for name in entry)]
    assert peaks
    print(*peaks, sep="\n")


if __name__ == "__main__":
    main()

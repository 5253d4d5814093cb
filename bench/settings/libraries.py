"""Set-ups in which a library compiles, or in which its models are compiled: Hugging Face's, peft, accelerate."""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import memsched
from bench.settings.setting import Compile, Net, Setting, Step, inference, tokens, training

__all__ = ["SETTINGS"]

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}


def _llama(**how: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    model: nn.Module = LlamaForCausalLM(LlamaConfig(use_cache=False, **_SIZES, **how))
    return model


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    model: nn.Module = BertForMaskedLM(BertConfig(**_SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    return model


def _labelled(make: Any, compile: Compile) -> Step:
    """A model that returns an object with its loss."""
    model = make()
    compiled, (ids, _) = compile(model), tokens()
    return training(model, lambda given: compiled(input_ids=given, labels=given), (ids,))


def _gradient_checkpointing(compile: Compile) -> Step:
    model = _llama()
    model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    return _labelled(lambda: model, compile)


def _adapters(compile: Compile) -> Step:
    from peft import LoraConfig, get_peft_model

    return _labelled(lambda: get_peft_model(_llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])), compile)


def _generate(compile: Compile) -> Step:
    """A static cache, as `generate` compiles it: one call of the model."""
    from transformers import StaticCache

    model = _llama().eval()
    cache = StaticCache(config=model.config, max_cache_len=64)
    compiled = compile(model)
    ids, position = torch.randint(512, (2, 1)), torch.tensor([3])

    def call(ids: Tensor, position: Tensor) -> Any:
        found = compiled(input_ids=ids, past_key_values=cache, cache_position=position, use_cache=True)
        return found.logits

    return inference(call, (ids, position))


def _accelerated(compile: Compile) -> Step:
    """accelerate compiles what it prepares; how, the plugin says."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import TorchDynamoPlugin

    AcceleratorState._reset_state(reset_partial_state=True)  # else the plugin of the way before is used

    options = memsched.options() if _is_memsched(compile) else None
    accelerator = Accelerator(cpu=True, dynamo_plugin=TorchDynamoPlugin(backend="inductor", options=options))
    model = Net()
    prepared = accelerator.prepare(model)
    return training(model, prepared, tokens())


class _Tokens(Dataset[dict[str, Tensor]]):
    """The same batch again and again."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = tokens(1, seed=index % 4)[0][0]
        return {"input_ids": ids, "labels": ids}


def _trained(compile: Compile) -> Step:
    """Trainer compiles by itself; the values are the parameters after two steps."""
    from transformers import Trainer, TrainingArguments

    model, folder = _llama(), tempfile.mkdtemp()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    install = memsched.install if _is_memsched(compile) else memsched.uninstall
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=4,
        max_steps=2,
        torch_compile=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
    )

    def run() -> None:
        install()
        try:
            model.load_state_dict(start)
            Trainer(model, arguments, train_dataset=_Tokens()).train()
        finally:
            memsched.uninstall()

    return Step(run, lambda: [parameter.detach() for parameter in model.parameters()])


def _lit(compile: Compile) -> Step:
    """Lightning runs the training step of a compiled module; the values are the parameters after two steps."""
    import lightning.pytorch as lightning
    from torch.utils.data import DataLoader

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = _llama()

        def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
            loss: Tensor = self.model(**batch).loss
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    module, folder = Module(), tempfile.mkdtemp()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    compiled = compile(module)

    def run() -> None:
        module.load_state_dict(start)
        trainer = lightning.Trainer(
            max_steps=2,
            accelerator="cpu",
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(compiled, DataLoader(_Tokens(), batch_size=4))

    return Step(run, lambda: [parameter.detach() for parameter in module.parameters()])


def _is_memsched(compile: Compile) -> bool:
    return isinstance(compile, functools.partial)


_LIBRARIES = "libraries"

SETTINGS = (
    Setting("transformers, Llama", _LIBRARIES, functools.partial(_labelled, _llama)),
    Setting("transformers, BERT", _LIBRARIES, functools.partial(_labelled, _bert)),
    Setting("transformers, gradient checkpointing", _LIBRARIES, _gradient_checkpointing),
    Setting("transformers, static cache", _LIBRARIES, _generate),
    Setting("peft, LoRA", _LIBRARIES, _adapters),
    Setting("accelerate", _LIBRARIES, _accelerated, plain=True),
    Setting("transformers, Trainer", _LIBRARIES, _trained, plain=True),
    Setting("Lightning", _LIBRARIES, _lit),
)

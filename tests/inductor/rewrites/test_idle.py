"""Chunks that were asked for where there is nothing to chunk: one line, and the model compiles."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache
from torch.nn import functional

import memsched


class Mixing(nn.Module):
    """A loss that normalizes over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).softmax(0).square().mean()


class Classifier(Mixing):
    """One layer of logits."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.cross_entropy(self.layer(x), torch.zeros(x.shape[0], dtype=torch.long))


@pytest.mark.plans
@pytest.mark.parametrize("way", ["compile", "strict", "train_step"])
@pytest.mark.parametrize("found", [False, True])
def test_a_model_without_a_loss_to_chunk_is_told(
    way: str, found: bool, no_kernels: None, caplog: pytest.LogCaptureFixture
) -> None:
    del no_kernels
    torch._dynamo.reset()
    memsched.reset()
    model = Classifier() if found else Mixing()
    options = {"chunk_loss": 4, "strict": way == "strict"}
    with fresh_cache(), caplog.at_level(logging.WARNING, "memsched"):
        if way == "train_step":
            memsched.train_step(model, torch.optim.SGD(model.parameters(), 0.1), options=options)(torch.randn(16, 8))
        else:
            torch.compile(model, backend="memsched", options=options)(torch.randn(16, 8)).backward()
    told = "memsched: chunk_loss=4 changed nothing: no loss that can be computed in so many chunks of tokens was found"
    assert any(told in line for line in caplog.messages) != found

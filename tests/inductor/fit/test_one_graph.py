"""A ladder is of one graph: what breaks the model is named, and a message to a logger is planned past and told.

a ──> message to a logger ──> b      one graph, and a note       a ──> print ──> b      an error with the line
"""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

import memsched
from memsched.core.sizes import InputError

pytestmark = pytest.mark.plans

log = logging.getLogger("a model")


class Talks(nn.Module):
    """to_logger: whether it writes its message to a logger, or to standard output with a value of a tensor."""

    def __init__(self, to_logger: bool) -> None:
        super().__init__()
        self.first, self.second, self.to_logger = nn.Linear(64, 256), nn.Linear(256, 64), to_logger

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        if self.to_logger:
            log.warning("of shape %s", hidden.shape)
        else:
            print(hidden.sum().item())
        return self.second(hidden)


class Quiet(nn.Sequential):
    """The same without a message."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))


def test_a_message_to_a_logger_is_planned_past_and_told() -> None:
    found = memsched.fit(Talks(to_logger=True), torch.randn(32, 64))
    assert found.ladder.rungs[0].peak == memsched.fit(Quiet(), torch.randn(32, 64)).ladder.rungs[0].peak
    assert ".add(logging.Logger.warning)" in found.note and "in forward" in found.note


def test_what_else_breaks_the_graph_is_one_line() -> None:
    with pytest.raises(InputError, match=r"breaks into 2 graphs: .* at .*test_one_graph\.py:\d+ in forward") as refused:
        memsched.fit(Talks(to_logger=False), torch.randn(32, 64))
    assert "\n" not in str(refused.value)


def test_a_loss_function_belongs_to_the_model_where_there_is_no_optimizer() -> None:
    batch = torch.randn(32, 64), torch.randn(32, 64)
    with_loss = memsched.fit(Quiet(), *batch, loss_fn=nn.functional.mse_loss).ladder.rungs[0]
    without = memsched.fit(Quiet(), batch[0]).ladder.rungs[0]
    assert with_loss.kernels > without.kernels


def test_the_line_is_the_model_s_where_a_library_breaks_the_graph() -> None:
    class AsksForLogger(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            hidden = super().forward(x)
            logging.getLogger("a model").warning("of shape %s", hidden.shape)
            return hidden.exp()

    with pytest.raises(InputError, match=r"breaks into 2 graphs: .* at .*test_one_graph\.py:\d+ in forward"):
        memsched.fit(AsksForLogger(4, 4), torch.randn(2, 4))


def test_what_breaks_the_graph_behind_a_message_is_named_too() -> None:
    class TalksTwice(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            hidden = super().forward(x)
            log.warning("of shape %s", hidden.shape)
            print(hidden.sum().item())
            return hidden.exp()

    with pytest.raises(InputError, match=r"breaks into 2 graphs: .* at .*test_one_graph\.py:\d+ in forward"):
        memsched.fit(TalksTwice(4, 4), torch.randn(2, 4))

"""Fused as stock means: by what stock would see, also where planning has changed it since.

the logits are read by softmax, and, only to order, by the update of w that waits for mm(h, w)
    fused under the plan    Inductor sees both readers, and what it fuses depends on that
    ordered                 the reader that only orders is forgotten: the logits may be written over
    fused as stock          it must be there again
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memsched
from memsched.fusion.planner import FusionPlanner
from memsched.inductor import session

pytestmark = pytest.mark.plans


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2000, 32)
        self.block = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))
        self.head = nn.Linear(32, 2000, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.table(tokens)
        return self.head(hidden + self.block(hidden))


def cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def test_stock_sees_the_readers_that_were_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int | None] = []
    forget, fuse = session.forget_order_only_readers, session.fuse_as_stock

    def forgotten(nodes: Sequence[Any]) -> int:
        told.append(forget(nodes))
        return 0

    def fused(*given: Any) -> list[Any]:
        told.append(None)
        return fuse(*given)

    asked: list[Any] = []
    judge = FusionPlanner.may_fuse

    def refused_first(self: FusionPlanner, *question: Any) -> bool:
        """A graph of which nothing is refused is fused once."""
        asked.append(question)
        return len(asked) > 1 and judge(self, *question)

    monkeypatch.setattr(FusionPlanner, "may_fuse", refused_first)
    monkeypatch.setattr(session, "forget_order_only_readers", forgotten)
    monkeypatch.setattr(session, "fuse_as_stock", fused)
    torch.manual_seed(0)
    model = Language()
    step = memsched.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn=cross_entropy)
    tokens = torch.randint(0, 2000, (4, 64))
    step.plan(tokens, tokens)
    planned, as_stock, again = told
    assert as_stock is None, "the graph was not fused twice: the test shows nothing"
    assert planned
    assert again

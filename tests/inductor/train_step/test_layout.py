"""Images lie in a step as they need less: with the channels last, or as stock's own backward has them.

one graph with convolutions        Inductor lays all of it out with the channels last
stock's backward, without any      as the trace has it: depthwise gradients then need a tenth of the scratch
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memsched
from bench.models import build
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.session import PlanningSession
from memsched.inductor.train_step.refusals import Refusal


class Depthwise(nn.Module):
    """Each channel is filtered by itself, with a large window."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 2, 2)
        self.filter = nn.Conv2d(16, 16, 7, padding=3, groups=16)

    def forward(self, images: Tensor) -> Tensor:
        return (self.first(images) + self.filter(self.first(images))).square().mean()


def planned(model: nn.Module, batch: tuple[Tensor, ...], **inductor: bool) -> int:
    torch._dynamo.reset()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return memsched.train_step(model, optimizer, options={"strict": True, **inductor}).plan(*batch).plan.peak


@pytest.mark.plans
@pytest.mark.parametrize("name", ["convnext", "resnet"])
def test_a_step_of_images_is_never_above_stock(name: str) -> None:
    """That of convnext was, by 92%, with the channels last.  Of resnet no second plan is made.

    What the library's convolutions allocate is measured: without AVX-512 both layouts of convnext need the same.
    """
    workload = build(name, "small")
    stock = max(report.peak for report in plan_only(workload.model, workload.batch, stock=True))
    last, first = (planned(workload.model, workload.batch, layout_optimization=last) for last in (True, False))
    chosen = planned(workload.model, workload.batch)
    assert chosen == min(last, first)
    assert chosen <= stock
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert (first < last) == (name != "resnet")


@pytest.mark.plans
def test_a_failure_of_the_planner_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of bytes that nobody knows no second layout is planned."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("no plan")

    monkeypatch.setattr(PlanningSession, "_order", fail)
    model = Depthwise()
    step = memsched.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with caplog.at_level(logging.WARNING, logger="memsched"), pytest.raises(Refusal, match="no plan was made"):
        step.plan(torch.randn(4, 3, 32, 32))
    assert sum("no plan" in record.message for record in caplog.records) == 1


@pytest.mark.compile
def test_a_step_that_was_laid_out_otherwise_trains_as_eager_does() -> None:
    torch.manual_seed(0)
    model, images = Depthwise(), torch.randn(4, 3, 32, 32)
    assert planned(model, (images,), layout_optimization=False) < planned(model, (images,), layout_optimization=True)
    eager = Depthwise()
    eager.load_state_dict(model.state_dict())
    step = memsched.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), options={"strict": True})
    theirs = torch.optim.SGD(eager.parameters(), lr=0.1)
    for _ in range(2):
        step(images)
        eager(images).backward()
        theirs.step()
        theirs.zero_grad()
    torch.testing.assert_close(dict(model.named_parameters()), dict(eager.named_parameters()))

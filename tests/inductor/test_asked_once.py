"""What is remembered of two kernels is what Inductor answers when it is asked again, in every round and both fusions.

round 1     a b  no, for good            remembered
round 2     a b  asked of Inductor here, beside what is remembered: the same, or the memory is wrong
as stock    a b  another object for the same two nodes: remembered, and asked here
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._inductor.scheduler import FusedSchedulerNode

from bench.models import zoo
from bench.models.random_operators import Family, step
from memsched.inductor.asked_once import AskedOnce
from memsched.inductor.capture.plan_only import plan_only

pytestmark = pytest.mark.plans

fused_anew: set[Any] = set()
"""The fused nodes about which something was remembered."""


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions of two kernels that gave another answer when they were asked again."""
    found: list[str] = []

    def compared(self: AskedOnce, method: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[Any, Any] = {}

        def answer(*nodes: Any, **named: Any) -> Any:
            now = method(*nodes, **named)
            question = self._question(*nodes[:2], nodes[2:], named)
            if question is not None and known.setdefault(question, now) != now:
                found.append(method.__name__)
            return now

        return answer

    monkeypatch.setattr(AskedOnce, "_answered_once", compared)
    return found


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What Inductor answers to every question that would not have been asked."""
    answers: list[bool] = []
    fused_anew.clear()
    ask = AskedOnce.can_fuse

    def both(self: AskedOnce, *question: Any, **named: Any) -> bool:
        saved = self.saved
        answer = ask(self, *question, **named)
        if self.saved > saved:
            answers.append(self._ask(*question, **named))
            fused_anew.update(node for node in question[:2] if isinstance(node, FusedSchedulerNode))
            self.for_good = False
        return answer

    monkeypatch.setattr(AskedOnce, "can_fuse", both)
    return answers


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("family", list(Family))
def test_what_is_remembered_is_what_inductor_says(family: Family, repeated: list[bool]) -> None:
    for seed in (3, 62):
        plan_only(*step(seed, family))
    assert repeated, "nothing was asked twice: the test shows nothing"
    assert not any(repeated)


@pytest.mark.parametrize("name", ["looped", "expert choice", "unet", "adamw"])
def test_models_of_the_zoo(name: str, repeated: list[bool], changed: list[str]) -> None:
    plan_only(*zoo.ZOO[name]())
    assert repeated
    assert not any(repeated)
    assert not changed
    if name in ("looped", "unet"):
        assert fused_anew, "only nodes as they were before fusion were recognized"


def test_who_reads_why_pairs_are_refused_reads_all_of_it(repeated: list[bool]) -> None:
    torch._logging.set_logs(fusion=True)
    try:
        plan_only(*step(62, Family.FLOAT32))
    finally:
        torch._logging.set_logs()
    assert not repeated

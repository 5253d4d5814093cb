"""A refusal that is remembered is what Inductor answers when it is asked again, in every round and in both fusions.

round 1    a b  no, for good            remembered
round 2    a b  asked of Inductor here, beside what is remembered: the same, or the memory is wrong
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.models import zoo
from bench.models.random_operators import Family, step
from memsched.inductor.asked_once import AskedOnce
from memsched.inductor.capture.plan_only import plan_only

pytestmark = pytest.mark.plans


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What Inductor answers to every question that would not have been asked."""
    answers: list[bool] = []
    ask = AskedOnce.can_fuse

    def both(self: AskedOnce, *question: Any, **named: Any) -> bool:
        saved = self.saved
        answer = ask(self, *question, **named)
        if self.saved > saved:
            answers.append(self._ask(*question, **named))
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
def test_models_of_the_zoo(name: str, repeated: list[bool]) -> None:
    plan_only(*zoo.ZOO[name]())
    assert repeated
    assert not any(repeated)


def test_who_reads_why_pairs_are_refused_reads_all_of_it(repeated: list[bool]) -> None:
    torch._logging.set_logs(fusion=True)
    try:
        plan_only(*step(62, Family.FLOAT32))
    finally:
        torch._logging.set_logs()
    assert not repeated

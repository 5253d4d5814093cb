"""A pair that is only collected is not judged, but where another pair may have to wait for it.

Triton     all pairs have one priority: each that is collected is asked about again
C++        a pair of the second priority is collected only in a round without any of the first: one that is collected
           there and refused later would end the rounds
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._inductor.codegen.cpp import CppScheduling
from torch._inductor.codegen.triton import TritonScheduling

from memsched.inductor.candidates import Candidates
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions

NODE: Any = SimpleNamespace(get_device=lambda: None)


class OneNode:
    """A scheduler that notes, while it collects, whether it is known that it will ask again."""

    def __init__(self, candidates: Candidates, backend: type) -> None:
        self._candidates, self._backend = candidates, backend
        self.known: list[bool] = []

    def get_backend(self, _device: Any) -> Any:
        return self._backend.__new__(self._backend)

    def get_possible_fusions(self) -> None:
        self.known.append(self._candidates.will_be_asked_again(NODE))


@pytest.mark.parametrize(("backend", "again"), [(TritonScheduling, True), (CppScheduling, False)])
def test_who_asks_again(backend: type, again: bool) -> None:
    candidates = Candidates()
    scheduler: Any = OneNode(candidates, backend)
    with candidates.of(scheduler):
        scheduler.get_possible_fusions()
        assert not candidates.will_be_asked_again(NODE), "nothing is being collected"
    scheduler.get_possible_fusions()
    assert scheduler.known == [again, False]


def test_a_failure_ends_the_collecting_and_the_context_leaves_nothing() -> None:
    def collect() -> None:
        raise ValueError

    scheduler: Any = SimpleNamespace(get_possible_fusions=collect)
    candidates = Candidates()
    with pytest.raises(ValueError), candidates.of(scheduler):
        scheduler.get_possible_fusions()
    assert not candidates.will_be_asked_again(NODE)
    assert not hasattr(scheduler, "get_possible_fusions"), "the attribute of the instance hides the method"


@pytest.mark.plans
def test_a_failure_while_pairs_are_collected_leaves_the_graph_to_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bool:
        raise ValueError("no backend")

    monkeypatch.setattr(Candidates, "will_be_asked_again", fail)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.LayerNorm(8))
    reports = plan_only(model, (torch.randn(4, 8),), BackendOptions(strict=False))
    assert any("judging a fusion: ValueError: no backend" in report.fallback for report in reports)

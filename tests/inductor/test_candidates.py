"""A pair that is only collected is not judged, but where another pair may have to wait for it.

Triton     all pairs have one priority: each that is collected is asked about again
C++        a pair of the second priority is tried only in a round without any of the first: one that is collected there
           and refused later would end the rounds
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch._inductor.codegen.cpp import CppScheduling
from torch._inductor.codegen.triton import TritonScheduling

from memsched.inductor.candidates import Candidates


@pytest.mark.parametrize(("backend", "again"), [(TritonScheduling, True), (CppScheduling, False)])
def test_who_is_asked_again(backend: type, again: bool) -> None:
    answers = []
    node: Any = SimpleNamespace(get_device=lambda: None)

    def collect(*_: Any) -> list[Any]:
        answers.append(candidates.will_be_asked_again(node))
        return []

    scheduler: Any = SimpleNamespace(get_possible_fusions=collect, get_backend=lambda _: backend.__new__(backend))
    candidates = Candidates(scheduler)
    scheduler.get_possible_fusions([node], False)
    assert answers == [again]
    assert not candidates.will_be_asked_again(node), "nothing is being collected"


def test_a_failure_ends_the_collecting() -> None:
    def collect() -> None:
        raise ValueError

    scheduler: Any = SimpleNamespace(
        get_possible_fusions=collect, get_backend=lambda _: TritonScheduling.__new__(TritonScheduling)
    )
    candidates = Candidates(scheduler)
    with pytest.raises(ValueError):
        scheduler.get_possible_fusions()
    node: Any = SimpleNamespace(get_device=lambda: None)
    assert not candidates.will_be_asked_again(node)

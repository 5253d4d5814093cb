"""A fixture for test suites: the modelled peak of a step must stay below a size.

    def test_the_step_fits(assert_peak):
        assert_peak(train.step, at_most="1.2GiB")        # step() returns (model, batch), as for `memsched explain`

A failure prints the explanation: the tensors at the peak, their lines, and what would lower it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memsched.core.sizes import parse_bytes

__all__ = ["assert_peak"]


def _assert_peak(function: Callable[[], Any], *, at_most: str | int, train: bool = True, device: str = "cpu") -> int:
    """Fail unless every compiled graph of the step that `function` builds peaks at no more than `at_most` bytes.

    The peak is that of the memory model, without what the caller holds (parameters, batch); returns it, in bytes.

    Raises:
        InputError: `at_most` is not a size, or the step cannot be planned.
    """
    __tracebackhide__ = True
    limit = parse_bytes(at_most)
    from memsched.inductor.questions.plan_step import plan_step
    from memsched.inductor.questions.target import build_target
    from memsched.records.question import StepQuestion
    from memsched.render.text.explanation import explain_step

    target = build_target(function, getattr(function, "__name__", "the function"))
    question = StepQuestion(train, device, experiments=False, stock=False, portable=True)
    found = explain_step(plan_step(target.model, target.batch, question, optimizers=target.optimizers))
    left = [graph.name for graph in found.graphs if graph.fallback]
    if left:
        pytest.fail(f"the peak of {', '.join(left)} is not known: left to stock\n\n{found}", pytrace=False)
    if found.peak > limit:
        pytest.fail(f"the step peaks at {found.peak:,} bytes, {limit:,} are allowed\n\n{found}", pytrace=False)
    return found.peak


@pytest.fixture
def assert_peak() -> Callable[..., int]:
    """`assert_peak(function, at_most="1.2GiB")`: see `memsched.pytest_plugin`."""
    return _assert_peak

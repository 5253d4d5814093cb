"""Every kind of fusion is judged, or left alone for the reason that docs/fusion-and-peak.md gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor import config

import memsched
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions

pytestmark = pytest.mark.plans


def planned(function: Callable[..., Any], *batch: Tensor, stock: bool = False) -> memsched.GraphReport:
    """The plan of one graph without gradients; strict, so that whatever fails raises."""
    with torch.no_grad():
        (report,) = plan_only(function, batch, BackendOptions(strict=True), stock=stock)
    return report


def test_a_vertical_fusion_that_only_saves_is_made() -> None:
    """x -> a sum of squares and a mean over rows: one kernel, nothing but the result is allocated."""
    report = planned(lambda x: (x * 2).relu().sum(-1), torch.ones(256, 64))
    assert report.kernels == planned(lambda x: (x * 2).relu().sum(-1), torch.ones(256, 64), stock=True).kernels
    assert not report.refusals


def test_fusions_of_reductions_side_by_side_are_judged() -> None:
    """pytorch#138685: (a @ c).sum(-1) + (b @ c).sum(-1).  Fused, both products are alive; apart, one at a time."""

    def two_sums(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return (a @ c).sum(-1) + (b @ c).sum(-1)

    batch = torch.ones(512, 16), torch.ones(512, 16), torch.ones(16, 512)
    report, stock = planned(two_sums, *batch), planned(two_sums, *batch, stock=True)
    product = 512 * 512 * 4
    assert product <= report.peak < 1.1 * product
    assert report.peak <= stock.peak


def test_a_reduction_split_in_two_is_two_ops() -> None:
    """A sum over everything is split; both halves are judged like any two ops, and the plan has no fallback."""
    report = planned(lambda x: (x * 3).sum() + (x + 1).amax(), torch.ones(1 << 20))
    assert not report.fallback
    assert report.fusions_asked > 0


def test_foreach_kernels_stay_one_op() -> None:
    """Inductor forms them before the first pass: one op of the graph, whatever is fused around it."""

    def step(*tensors: Tensor) -> list[Tensor]:
        return [t * 2 for t in torch._foreach_add(list(tensors), 1.0)]

    report = planned(step, *(torch.ones(64, 64) for _ in range(6)))
    assert not report.fallback
    assert report.peak == planned(step, *(torch.ones(64, 64) for _ in range(6)), stock=True).peak


def test_combo_kernels_are_left_alone_and_told() -> None:
    """They are formed after our pass, from the order that it leaves: the report says so."""
    with config.patch(combo_kernels=True):
        assert "combo kernels" in planned(lambda x: x.sin().sum(-1), torch.ones(64, 64)).note
    assert "combo kernels" not in planned(lambda x: x.sin().sum(-1), torch.ones(64, 64)).note

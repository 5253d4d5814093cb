"""What the planner of fusions knows of storages: whole concatenations, and scratch memory of library calls.

    cat(p, q), fused into one kernel with p's producer       all of it is allocated there, not p's half alone
    convolution beside a fused kernel                        its scratch memory comes on top

Both were learnt after fusion only, when it was too late to refuse.  Random models that show it, step and inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from bench.models.random_operators import Family, step
from memsched.core.graph import Graph
from memsched.inductor import fusing
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.storages.inplace import reuses_of
from memsched.storage.model import AllocationModel
from memsched.storage.pieces import Piece


def planned(seed: int, family: Family, *, inference: bool) -> int:
    model, batch = step(seed, family)
    with torch.set_grad_enabled(not inference):
        return max(report.peak for report in plan_only(model, batch))


def one_storage_each(estimate: Graph, nodes: Sequence[Any], **_: Any) -> AllocationModel:
    """The model without either."""
    pieces = {
        buffer.name: Piece(buffer.size, buffer.producer, frozenset(buffer.consumers), buffer.kept)
        for buffer in estimate.buffers
    }
    return AllocationModel(estimate, pieces, {}, {}, reuses_of(nodes))


@pytest.mark.plans
@pytest.mark.parametrize(
    ("seed", "family", "inference"),
    [(11, Family.FLOAT32, True), (1, Family.IMAGES, False)],
    ids=["concatenation", "scratch memory"],
)
def test_fusions_leave_room_for_it(seed: int, family: Family, inference: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    known = planned(seed, family, inference=inference)
    monkeypatch.setattr(fusing, "unfused_model", one_storage_each)
    assert known < planned(seed, family, inference=inference)

"""CUDA plans made without a GPU: what Inductor would do on one, in bytes that a replay of its wrapper confirms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memsched.core.check import check_order
from memsched.core.sizes import InputError
from memsched.inductor.cuda_without_gpu import CudaWorker, WorkerError, missing

pytestmark = [pytest.mark.plans, pytest.mark.fakecuda]


@pytest.fixture(scope="module")
def worker() -> Iterator[CudaWorker]:
    """One process for all tests: torch and triton are imported once."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with CudaWorker() as running:
        yield running


def test_two_views_through_one_tower_need_less_on_a_gpu_too(worker: CudaWorker) -> None:
    """The class of models for which stock's fusion costs most, lowered for CUDA; bytes of the replayed wrappers."""
    stock, planned = worker.plans("bench.models:build", arguments={"name": "contrastive", "size": "small"})
    assert [graph.report.kind for graph in planned.graphs] == ["forward", "backward"]
    for graph in planned.graphs:
        assert graph.report.graph is not None and graph.report.graph.device.startswith("cuda")
        assert graph.report.schedule is not None and not graph.report.fallback
        check_order(graph.report.graph, graph.report.schedule.order)
        assert "empty_strided_cuda" in graph.wrapper and "triton" in graph.wrapper
    assert planned.graphs[1].replayed < 0.8 * stock.graphs[1].replayed


def test_a_model_larger_than_this_machine_is_planned(worker: CudaWorker) -> None:
    """16 layers of 1 GiB and a batch of 32 GiB: fake tensors have sizes and no storage."""
    plan = worker.plan("tests.test_cuda_without_gpu:large", batch_size=1 << 19)
    assert plan.held.parameters == 16 << 30 and plan.held.batch == 32 << 30
    assert plan.graphs[0].entry == plan.held.parameters + plan.held.batch


def large(batch_size: int) -> object:
    """A model that fits no laptop; called in the worker."""
    import torch

    layers = [torch.nn.Linear(1 << 14, 1 << 14, bias=False) for _ in range(16)]
    return torch.nn.Sequential(*layers), torch.randn(batch_size, 1 << 14)


def test_a_worker_tells_what_failed_and_goes_on(worker: CudaWorker) -> None:
    with pytest.raises(InputError, match="no function 'nothing'"):
        worker.plan("bench.models:nothing")
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        worker.call("operator:truediv", 1, 0)
    assert worker.call("operator:add", 1, 2) == 3

"""A training step of several processes: gradients are averaged between the backward and their updates.

gradient ──> average over the processes ──> update         losses, parameters as DistributedDataParallel's
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

import memsched
from memsched.inductor.train_step.replicas import in_buckets
from memsched.inductor.train_step.report import StepReport
from memsched.inductor.train_step.step import Refusal
from tests.inductor.train_step.replicas import PROCESSES, Net, work


def in_two_processes(options: dict[str, Any], micro_batches: int, wrapped: bool) -> list[dict[str, Any]]:
    """What each has seen (`replicas.Row`)."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    into = mp.get_context("spawn").SimpleQueue()
    mp.spawn(work, (port, options, micro_batches, wrapped, into), nprocs=PROCESSES)
    rows: list[dict[str, Any]] = into.get()
    return rows


@pytest.mark.compile
@pytest.mark.parametrize(
    ("options", "micro_batches", "wrapped"),
    [
        ({"bucket_size": 0}, 1, True),
        ({"clip_grad_norm": 0.01}, 3, True),
        ({"bucket_size": "40KiB", "clip_grad_norm": 0.01, "clip": "recompute"}, 1, False),
    ],
    ids=["each gradient alone", "one bucket, micro-batches, clipped", "processes, norm in a run of its own"],
)
def test_two_processes_train_as_distributed_data_parallel_does(
    options: dict[str, Any], micro_batches: int, wrapped: bool
) -> None:
    rows = in_two_processes({"strict": True, **options}, micro_batches, wrapped)
    assert rows[0]["parameters"] == rows[1]["parameters"]
    assert rows[0]["plans"] == rows[1]["plans"] and rows[0]["plans"]
    for row in rows:
        assert all(ours == pytest.approx(theirs, abs=1e-6) for ours, theirs in row["losses"])
        assert row["difference"] <= 1e-6
        assert row["buffers"] <= 1e-6
        ours, theirs = row["peaks"]
        assert ours <= theirs or options.get("bucket_size") != 0
    assert rows[0]["losses"] != rows[1]["losses"], "each process has data of its own"


class Wide(nn.Module):
    """Weights are larger than all activations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(256, 256, bias=False) for _ in range(8)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).square().mean()


@pytest.fixture
def four_ranks() -> Iterator[None]:
    """Collectives that only allocate."""
    memsched.reset()
    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    yield
    dist.destroy_process_group()


def planned(wrapped: bool, **options: Any) -> StepReport:
    torch._dynamo.reset()
    model = Wide()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    whole = DistributedDataParallel(model) if wrapped else model
    return memsched.train_step(whole, optimizer, options={"strict": True, **options}).plan(torch.randn(16, 256))


@pytest.mark.plans
def test_a_bucket_costs_the_gradients_that_it_waits_for(four_ranks: None) -> None:
    del four_ranks
    matrix = 256 * 256 * 4
    alone = planned(wrapped=False)
    by_size = {size: planned(wrapped=True, bucket_size=size) for size in (0, 2 * matrix, 4 * matrix, None)}
    assert by_size[0].plan.peak == alone.plan.peak, "an average takes the place of its gradient"
    peaks = [report.plan.peak for report in by_size.values()]
    assert peaks == sorted(peaks) and peaks[-1] >= 8 * matrix > peaks[0]
    assert [report.buckets for report in by_size.values()] == [
        (matrix,) * 8,
        (2 * matrix,) * 4,
        (4 * matrix,) * 2,
        (8 * matrix,),
    ]
    assert "averaged    in 4 calls, at most 512.00 KiB in one" in str(by_size[2 * matrix])
    assert by_size[0].to_json()["buckets"] == [matrix] * 8


def test_buckets_have_one_type_and_keep_the_order() -> None:
    gradients = [torch.empty(n, dtype=dtype) for n, dtype in [(4, torch.float32), (4, torch.float32), (2, torch.half)]]
    assert in_buckets(gradients, 32) == [[0, 1], [2]]
    assert in_buckets(gradients, 16) == in_buckets(gradients, 0) == [[0], [1], [2]]
    assert in_buckets([], 8) == []


@pytest.mark.plans
@pytest.mark.parametrize("what", ["hook", "inside", "ignored", "DTensor", "bucket", "no size"])
def test_what_has_no_place_in_the_step_is_refused_by_name(what: str, four_ranks: None) -> None:
    del four_ranks
    model: nn.Module = Net()
    parameters = list(model.parameters())
    options: dict[str, Any] = {}
    if what == "inside":
        model = nn.Sequential(DistributedDataParallel(model))
        words = "0 is wrapped in DistributedDataParallel; wrap the whole model"
    elif what == "ignored":
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["norm.weight"])
        model, words = DistributedDataParallel(model), "ignores norm.weight"
    elif what == "DTensor":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (4,)))
        parameters, words = list(model.parameters()), "parameter layers.0.0.weight is a DTensor (FSDP2"
    elif what == "bucket":
        model, options, words = DistributedDataParallel(model), {"bucket_size": "two"}, "'two' is not a size"
    elif what == "no size":
        options, words = {"bucket_size": ""}, "option bucket_size: '' is not a size"
    else:
        wrapped = DistributedDataParallel(model)
        wrapped.register_comm_hook(None, lambda _state, bucket: torch.futures.Future())
        model, words = wrapped, "communication hook"
    with pytest.raises(Refusal) as refused:
        memsched.train_step(model, torch.optim.SGD(parameters, 0.1), options=options)
    assert words in str(refused.value)


@pytest.mark.compile
def test_left_to_stock_gradients_are_averaged_too() -> None:
    """Planning fails: the wrapper itself is compiled, or made where there was none."""
    rows = in_two_processes({"fail": True}, 2, False)
    assert rows[0]["parameters"] == rows[1]["parameters"]
    assert all(row["difference"] <= 1e-6 and not row["plans"] for row in rows)

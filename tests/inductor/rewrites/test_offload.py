"""Saved tensors that wait on the host: which, how many bytes, and that gradients are those of the model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._functorch._activation_offloading import activation_offloading
from torch._inductor.utils import fresh_cache

from memsched.inductor.cuda_without_gpu import CudaWorker, missing
from memsched.inductor.rewrites import offload
from memsched.planning import predict

TARGET = "tests.inductor.rewrites.test_offload:blocks"


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        inside: Tensor = self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
        return x + inside


class Model(nn.Module):
    """Three blocks and a loss; each block saves its input, its statistics and its wide inside."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.square().mean()


def blocks() -> tuple[nn.Module, tuple[Tensor], torch.optim.Optimizer]:
    """Called in the worker, too."""
    torch.manual_seed(0)
    model = Model()
    return model, (torch.randn(512, 64),), torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing comes out of a cache, where no graph is cut."""
    torch._dynamo.reset()
    with fresh_cache():
        yield


@pytest.mark.plans
@pytest.mark.fakecuda
@pytest.mark.parametrize("way", ["memsched", "train_step"])
def test_what_waits_on_the_host_takes_no_bytes_of_the_gpu(way: str) -> None:
    """x0 ──> block 0 ──> x1 ──> ...: three wide insides of 512 KiB are saved, which half and all of them leave.

    The plan is what the generated wrapper allocates on the GPU, and what crosses the link crosses it twice.
    """
    if reason := missing():
        pytest.skip(reason)
    plans = []
    with CudaWorker() as worker:
        for share in (0.0, 0.5, 1.0):
            (plan,) = worker.plans(TARGET, ways=(way,), options={"offload": share})
            predicted = predict(plan)
            assert not any(report.fallback for report in plan.reports)
            assert 0 <= predicted.replayed - predicted.modelled <= 512, "the loss is the caller's"
            plans.append((predicted.modelled, sum(report.moved for report in plan.reports)))
    peaks, moved = zip(*plans, strict=True)
    assert moved[0] == 0 < moved[1] < moved[2]
    assert peaks[2] < peaks[1] < peaks[0]
    assert peaks[0] - peaks[1] >= 512 << 10, "one of the insides, at least"


def test_the_first_that_is_saved_goes_first_and_results_inputs_and_views_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The joined graphs compute what the model does; here the host is where the tensors already are."""
    chosen: list[list[torch.fx.Node]] = []

    def can_wait(node: torch.fx.Node) -> bool:
        return node.op == "call_function" and not offload.is_view(node) and node.meta["val"].is_contiguous()

    def told(forward: torch.fx.GraphModule, backward: Any, num_results: int, share: float) -> list[torch.fx.Node]:
        (outputs,) = forward.graph.output_node().args
        saved = [node for node in forward.graph.nodes if node in outputs[num_results:] and can_wait(node)]
        found = before(forward, backward, num_results, share)
        assert found == saved[: len(found)] and set(found).isdisjoint(outputs[:num_results])
        chosen.append(found)
        return found

    before = offload.offload_saved
    monkeypatch.setattr(offload, "_can_wait", can_wait)
    monkeypatch.setattr("memsched.inductor.partition.offload_saved", told)
    model, (x,), _ = blocks()
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, backend="memsched", options={"offload": 0.5, "strict": True})
    compiled(x).backward()
    eager(x).backward()
    assert len(chosen) == 1 and len(chosen[0]) >= 2
    for one, other in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_halves_of_which_one_was_changed_are_not_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure behind the change of the forward, whose results are no longer what the backward takes."""

    def fail(graph: torch.fx.Graph) -> None:
        raise RuntimeError("no copies back")

    monkeypatch.setattr(offload, "_can_wait", lambda node: node.op == "call_function" and not offload.is_view(node))
    monkeypatch.setattr(activation_offloading, "reload_activation_bw", fail)
    model, (x,), _ = blocks()
    eager = copy.deepcopy(model)
    with caplog.at_level(logging.WARNING, logger="memsched"):
        torch.compile(model, backend="memsched", options={"offload": 0.5})(x).backward()
    assert [record.getMessage() for record in caplog.records] == [
        "memsched: what waits on the host is left to stock Inductor (RuntimeError: no copies back)"
    ]
    eager(x).backward()
    for one, other in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_on_the_cpu_there_is_nothing_to_move_and_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model, (x,), _ = blocks()
    eager = copy.deepcopy(model)
    with caplog.at_level(logging.WARNING, logger="memsched"):
        torch.compile(model, backend="memsched", options={"offload": 1.0, "strict": True})(x).backward()
    assert [record.getMessage() for record in caplog.records if "offload" in record.getMessage()] == [
        "memsched: offload changed nothing: what is saved is on no GPU, or an input, a result or a view"
    ]
    eager(x).backward()
    for one, other in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)

"""The backend against stock Inductor: the same outputs, gradients and mutated buffers, whatever the model does.

Each model is tiny; what counts is the feature that could go wrong when nodes change places.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import memsched
from memsched.inductor.bytes.measure import measure_peak
from memsched.records.published import counters

pytestmark = pytest.mark.compile

Result = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _fresh_compiles() -> Any:
    """Every test compiles for itself: a cache hit would skip the passes under test."""
    torch._dynamo.reset()
    memsched.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield


class Square(torch.autograd.Function):
    """A custom autograd function with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Everything(nn.Module):
    """BatchNorm statistics, a counter mutated in place, views of one storage, a concatenation, a custom function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(8, 5)
        self.register_buffer("calls", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        y = F.relu(self.norm(self.conv(x))) * self.calls.sum()
        left, right = y.chunk(2, 1)
        joined = torch.cat([left + 1, right * 2, Square.apply(left), right.transpose(2, 3)], 1)
        scratch = joined.clone()
        scratch[:, 0].mul_(3)
        return self.head(scratch.mean((2, 3))).logsumexp(-1)


class Dropped(nn.Module):
    """Random numbers under checkpointing: the backward must draw what the forward drew."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + checkpoint(lambda y, f=layer: F.dropout(F.gelu(f(y)), 0.5), x, use_reentrant=False)
        return x


class Broken(nn.Module):
    """A graph break in the middle: two forward graphs, two backward graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        torch._dynamo.graph_break()
        return self.second(x).tanh()


def training(model: nn.Module, backend: str, batches: Sequence[Tensor], **compile_options: Any) -> Result:
    """Outputs, gradients and buffers after one step on every batch, with the random state fixed."""
    model = copy.deepcopy(model)
    options = {"strict": True} if backend == "memsched" else None
    compiled = torch.compile(model, backend=backend, options=options, **compile_options)
    result: Result = {}
    for at, batch in enumerate(batches):
        torch.manual_seed(1)
        output = compiled(batch)
        output.square().sum().backward()
        result[f"output {at}"] = output.detach()
    result |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return result | dict(model.named_buffers())


def assert_same(found: Result, expected: Result) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(
    ("make", "shape"),
    [(Everything, (2, 3, 8, 8)), (Dropped, (4, 16)), (Broken, (4, 8))],
    ids=["mutation, BatchNorm, views", "random numbers under checkpointing", "graph break"],
)
def test_training_equals_stock(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, batches = make(), [torch.randn(shape) for _ in range(2)]
    stock = training(model, "inductor", batches)
    torch._dynamo.reset()
    planned = training(model, "memsched", batches)
    assert_same(planned, stock)
    kinds = [report.kind for report in memsched.reports()]
    assert "forward" in kinds and "backward" in kinds
    assert not any(report.fallback for report in memsched.reports())
    assert all(report.peak <= report.stock_peak for report in memsched.reports())


def test_dynamic_shapes_are_planned_once_and_stay_right() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8))
    batches = [torch.randn(4, 8), torch.randn(6, 8)]
    for batch in batches:
        torch._dynamo.mark_dynamic(batch, 0)
    expected = training(model, "eager", batches)
    assert_same(training(model, "memsched", batches), expected)
    assert len(memsched.reports()) == 2, "one forward and one backward graph serve both sizes"


def test_inference_under_no_grad() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(32, 32) for _ in range(3)]

    def branches(x: Tensor) -> Tensor:
        """Branches that share one input: horizontal fusion would keep all of them alive."""
        outputs = [((x * 2 + 1).sin() * w) for w in weights]
        return torch.stack([(o @ o.t()).sum() for o in outputs])

    x = torch.randn(32, 32)
    with torch.no_grad():
        planned = torch.compile(branches, backend="memsched", options={"strict": True})(x)
        torch.testing.assert_close(planned, branches(x), rtol=1e-4, atol=1e-4)
    (report,) = memsched.reports()
    assert report.kind == "inference"


def test_a_name_that_nobody_knows_is_refused_in_one_line() -> None:
    compiled = torch.compile(nn.Linear(2, 2), backend="memsched", options={"time_limit": 3})
    with pytest.raises(Exception, match="option 'time_limit' is unknown to memsched"):
        compiled(torch.ones(1, 2))


def test_disabled_is_stock() -> None:
    compiled = torch.compile(nn.Linear(2, 2), backend="memsched", options={"enabled": False})
    compiled(torch.ones(1, 2))
    assert memsched.reports() == []
    assert counters == {}


def test_the_allocator_sees_what_was_planned() -> None:
    """A chain of products in which a buffer dies early, and one of its size is wanted later:

        x -> A -> k -> P -> Q -> r -> C -> s -> T -> relu -> y        A, C: 256 KiB; P, Q: 512; T: 768; the rest small

    P and Q peak, at 1 MiB.  Inductor's estimate is higher, 1.5 MiB, as it counts T and relu(T) apart; so it keeps A for
    C through P and Q, if it may.
    """
    widths = [16, 256, 16, 512, 512, 16, 256, 16, 768, 16]
    weights = [torch.randn(before, after) for before, after in itertools.pairwise(widths)]

    def chain(x: Tensor) -> Tensor:
        for weight in weights:
            x = x @ weight
            x = x.relu() if weight.shape[1] == 768 else x
        return x

    x = torch.randn(256, widths[0])
    planned, reusing = (_measured_and_reported(chain, x, options) for options in ({}, {"allow_buffer_reuse": True}))
    assert planned[0] == planned[1]
    assert reusing[0] >= reusing[1] + 256 * 256 * 4, "or Inductor's reuse has changed, and this test shows nothing"


def _measured_and_reported(function: Callable[..., Tensor], x: Tensor, options: dict[str, Any]) -> tuple[int, int]:
    torch._dynamo.reset()
    memsched.reset()
    compiled = torch.compile(function, backend="memsched", options=options)
    with torch.no_grad():
        compiled(x)
        measured = measure_peak(lambda: compiled(x))
    (report,) = memsched.reports()
    assert report.emitted_peak is not None and report.graph is not None
    return measured, report.emitted_peak - report.graph.start_bytes

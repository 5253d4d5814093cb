"""Models that nobody tuned for: every kind of graph is planned without a fallback, and computes what stock computes.

Planning stops before code generation, so all of `bench.models.zoo` is planned here, under stock and under memsched,
and both are judged by the same memory model.  What could go wrong at run time (mutation, aliases, random numbers,
several outputs, control flow) is compiled for real in few functions that combine it.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import memsched
from bench.models import zoo
from bench.models.zoo_modules import Branches, DroppedInPairs, ExpertChoice
from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.fusion.planner import FusionPlanner
from memsched.inductor.capture.plan_only import plan_only

pytestmark = pytest.mark.plans

UNPLANNED = ("no kernels",)
"""Graphs without a scheduler node have no report."""


def planned(name: str, *, stock: bool = False) -> list[memsched.GraphReport]:
    """The plans of one model of the zoo, strict: whatever fails raises."""
    torch.manual_seed(0)
    model, batch = zoo.ZOO[name]()
    return plan_only(model, batch, stock=stock)


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch._dynamo.reset()
    memsched.reset()


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in UNPLANNED])
def test_every_model_is_planned_and_never_above_stock(name: str) -> None:
    """Never above Inductor's orders of the same nodes, nor above stock's own fusion and order of the same graph."""
    stock, reports = planned(name, stock=True), planned(name)
    assert reports and [report.kind for report in reports] == [report.kind for report in stock]
    for report, other in zip(reports, stock, strict=True):
        assert report.graph is not None and report.schedule is not None
        assert not report.fallback
        check_order(report.graph, report.schedule.order)
        assert report.peak == peak_bytes(report.graph, report.schedule.order)
        assert report.lower_bound <= report.peak <= report.stock_peak
        assert report.peak <= other.peak


@pytest.mark.parametrize("name", UNPLANNED)
def test_a_graph_without_nodes_is_left_alone(name: str) -> None:
    assert planned(name) == planned(name, stock=True) == []


def test_draws_of_random_numbers_keep_program_order() -> None:
    """Two towers, each drawing numbers: Inductor's sort after fusion interleaves them, eager runs one after the other.

    The draws are named op<i> in program order; a plan that swapped two would draw other numbers than eager.  Inductor
    has generators of its own; the draws are calls in the graph when it is told to draw as eager does.
    """
    with torch._inductor.config.patch(fallback_random=True):
        forward, _ = planned("dropout in pairs")
    assert forward.graph is not None and forward.schedule is not None
    position = {op: at for at, op in enumerate(forward.schedule.order)}
    draws = [at for at, op in enumerate(forward.graph.ops) if op.kind == "ExternKernelSchedulerNode"]
    chain = [edge for edge in forward.graph.order_edges if edge[0] in draws and edge[1] in draws]
    assert len(chain) >= 3, "four draws in a chain"
    for before, after in chain:
        assert int(forward.graph.ops[before].name[2:]) < int(forward.graph.ops[after].name[2:])
        assert position[before] < position[after]


def test_the_reported_seconds_are_those_of_all_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU time spent after fusion counts, though the report is made before that phase is over."""
    from memsched.storage import order as ordered

    real = ordered.stock_orders

    def slow(graph: Graph) -> Any:
        until = time.thread_time() + 0.3
        while time.thread_time() < until:
            pass
        return real(graph)

    monkeypatch.setattr(ordered, "stock_orders", slow)
    (report,) = planned("one operator")
    assert report.seconds >= 0.3


def test_a_large_graph_with_many_questions_ends_at_the_work_limit() -> None:
    """5,000 ops, fusion candidates from one end to the other: the work stops, and then stock's choice stands."""
    rng = random.Random(1)
    ops = 5000
    readers: list[set[int]] = [set() for _ in range(ops)]
    for reader in range(1, ops):
        for _ in range(2):
            readers[rng.randrange(max(0, reader - 50), reader)].add(reader)
    buffers = [Buffer(f"b{op}", rng.choice((4, 4096)), op, tuple(sorted(readers[op]))) for op in range(ops)]
    planner = FusionPlanner(Graph("large", tuple(Op(f"o{op}") for op in range(ops)), tuple(buffers)), range(ops))
    limit = planner.work_limit = 200_000
    refused = 0
    for _ in range(2000):
        first, second = rng.randrange(ops), rng.randrange(ops)
        refused += not planner.may_fuse([first], [second])
    assert refused and planner.exhausted
    assert planner.groups.visited < limit + 4 * ops, "no question costs more than a few passes over the graph"


class TestCompiled:
    """Real compiles: outputs, gradients, buffers and mutated inputs are those of stock; scalar code compiles faster."""

    pytestmark = pytest.mark.compile

    @pytest.fixture(autouse=True)
    def _scalar_code(self) -> Any:
        with torch._inductor.config.patch({"force_disable_caches": True, "cpp.simdlen": 1}):
            yield

    @staticmethod
    def run(function: Callable[..., Any], batch: tuple[Tensor, ...], backend: str) -> list[Tensor]:
        """Leaves of the outputs, the batch after the call, then gradients and buffers of a module."""
        function = copy.deepcopy(function)
        batch = tuple(tensor.detach().clone() for tensor in batch)
        options = {"strict": True} if backend == "memsched" else None
        torch._dynamo.reset()
        torch.manual_seed(1)
        outputs = tree_leaves(torch.compile(function, backend=backend, options=options)(*batch))
        losses = [output.sum() for output in outputs if output.requires_grad]
        if losses:
            torch.autograd.backward(losses)
        found = [output.detach() for output in outputs] + list(batch)
        if isinstance(function, nn.Module):
            found += [parameter.grad for parameter in function.parameters() if parameter.grad is not None]
            found += list(function.buffers())
        return found

    @classmethod
    def same_as_stock(cls, function: Callable[..., Any], batch: tuple[Tensor, ...]) -> None:
        expected = cls.run(function, batch, "inductor")
        found = cls.run(function, batch, "memsched")
        assert memsched.reports() and not any(report.fallback for report in memsched.reports())
        assert len(found) == len(expected)
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)

    def test_mutation_aliases_several_outputs_and_control_flow(self) -> None:
        torch.manual_seed(0)
        inputs = zoo.weights((4, 8), (6, 8), (4, 6), (4, 4))

        def combined(x: Tensor, table: Tensor, square: Tensor, state: Tensor) -> tuple[Any, ...]:
            several = zoo.several_outputs(square)
            return several, zoo.scanned(state), zoo.mutating(x, table), x.view(-1)[:3], zoo.unbacked(square)

        self.same_as_stock(combined, inputs)

    def test_training_with_random_numbers_routing_and_branches(self) -> None:
        torch.manual_seed(0)

        class Combined(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.dropped, self.branches, self.choice = DroppedInPairs(), Branches(), ExpertChoice()

            def forward(self, x: Tensor, y: Tensor) -> Tensor:
                return self.branches(x[:4, :8]) + self.choice(y) + self.dropped(x, y) * 1e-2

        self.same_as_stock(Combined(), zoo.weights((24, 16), (24, 16)))

    def test_an_optimizer_step(self) -> None:
        """Foreach kernels: every parameter and every moment is updated in place."""

        def stepped(backend: str) -> list[Tensor]:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            options = {"strict": True} if backend == "memsched" else None
            torch._dynamo.reset()
            step = torch.compile(lambda: optimizer.step(), backend=backend, options=options)
            for _ in range(2):
                step()
            return [*model.parameters(), *tree_leaves([optimizer.state[p] for p in model.parameters()])]

        for mine, other in zip(stepped("memsched"), stepped("inductor"), strict=True):
            torch.testing.assert_close(mine, other)
        assert memsched.reports() and not any(report.fallback for report in memsched.reports())

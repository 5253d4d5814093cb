"""A question leaves no trace: reports, what is cached, and what the user has compiled are as before."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor.graph import GraphLowering

import memsched
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.held import held_bytes
from memsched.inductor.session import PlanningSession
from tests.paths import ROOT


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).relu().sum()


@pytest.mark.plans
def test_an_explanation_adds_no_report_and_another_function_is_not_compiled_again() -> None:
    """`explain` once reset Dynamo: all that the user had compiled was compiled again at the next call."""
    memsched.reset()
    compiles = []

    def counting(gm: torch.fx.GraphModule, _inputs: object) -> object:
        compiles.append(gm)
        return gm.forward

    other = torch.compile(lambda x: x.sin() + 1, backend=counting)
    other(torch.ones(3))
    memsched.explain(Net(), torch.randn(4, 8), experiments=False)
    other(torch.ones(3))
    assert len(compiles) == 1
    assert memsched.reports() == []


@pytest.mark.plans
@pytest.mark.parametrize("way", ["compiled", "planned", "explained", "trained"])
def test_what_planned_a_graph_goes_when_the_compile_is_over(way: str, no_kernels: None) -> None:
    """A table by scheduler once kept every session, and a session its scheduler: 4,000 objects a graph, for ever."""
    del no_kernels
    before = {id(found) for found in _alive()}
    model, x = Net(), torch.randn(4, 8)
    if way == "compiled":
        torch.compile(model, backend="memsched")(x).backward()
    elif way == "planned":
        plan_only(model, [x])
    elif way == "explained":
        memsched.explain(model, x)
    else:
        memsched.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), options={"strict": True})(x)
    del model
    torch._dynamo.reset()
    assert not [found for found in _alive() if id(found) not in before]


def _alive() -> list[object]:
    """Sessions, and the graphs that Inductor lowered."""
    gc.collect()
    return [found for found in gc.get_objects() if type(found) in (PlanningSession, GraphLowering)]


_TWICE = """
import json, sys
import torch, memsched
from tests.inductor.test_no_trace import Net
def step():
    torch.manual_seed(0)
    torch._dynamo.reset()
    memsched.reset()
    torch.compile(Net(), backend="memsched")(torch.randn(4, 8)).backward()
    return sorted((report.name, report.cached) for report in memsched.reports())
if "explain" in sys.argv:
    memsched.explain(Net(), torch.randn(4, 8), experiments=False)
print(json.dumps(step()))
"""


@pytest.mark.compile
def test_reports_of_a_cached_graph_are_there_after_an_explanation(tmp_path: Path) -> None:
    """`explain` once awaited modules that nobody generated, and took their reports for ones that it had."""

    def run(*arguments: str) -> list[tuple[str, bool]]:
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", _TWICE, *arguments], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        return [(name, cached) for name, cached in json.loads(done.stdout.splitlines()[-1])]

    assert [cached for _, cached in run()] == [False, False]
    assert [cached for _, cached in run("explain")] == [True, True]


@pytest.mark.plans
def test_a_backward_is_planned_alike_whether_its_forward_was_planned_or_came_from_a_cache() -> None:
    """What the forward saves as a copy is noted by whoever compiles it, not only by the pass over its nodes."""
    from bench.models import build
    from memsched.inductor.capture.lower import run_uncompiled
    from memsched.inductor.storages.saved_copies import noted_copies, noting_saved_copies

    workload = build("resnet", "small")
    noted: list[frozenset[str]] = []

    def loaded(gm: torch.fx.GraphModule, *_args: object, **how: object) -> None:
        """As if the graph came out of a cache: no pass runs; the strides of its results are known all the same."""
        context = torch._guards.TracingContext.get()
        if how.get("is_backward"):
            noted.append(noted_copies())
        elif context.output_strides is not None:
            values = [getattr(node, "meta", {}).get("val") for node in gm.graph.output_node().args[0]]
            context.output_strides[:] = [_channels_last(value) for value in values]

    run_uncompiled(workload.model, workload.batch, noting_saved_copies(loaded, strict=True))
    planned = plan_only(workload.model, workload.batch, stock=True)[1]
    assert noted and noted[0], "weights of convolutions are saved as copies"
    assert planned.graph is not None
    inputs = {buffer.name for buffer in planned.graph.buffers if buffer.producer is None}
    assert noted[0] & inputs == {name for name in inputs if name.startswith("primals")}


def _channels_last(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, torch.Tensor):
        return None
    if value.dim() != 4:
        return tuple(value.stride())
    batch, channels, height, width = value.shape
    del batch
    return (channels * height * width, 1, channels * width, channels)


def test_state_of_the_optimizer_is_that_after_the_first_step() -> None:
    """`explain` once said 0 bytes before the first step, `plan` what every later step finds."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    before = held_bytes(model, [], optimizer).optimizer_state
    model(torch.randn(4, 8)).backward()
    optimizer.step()
    assert before == held_bytes(model, [], optimizer).optimizer_state
    state = [value for row in optimizer.state.values() for value in row.values()]
    assert before == sum(value.nbytes for value in state)

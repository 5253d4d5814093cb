"""What every supported torch must do, in seconds: `make test-torch VERSION=2.15.0` runs this file under that release.

Kernels are replaced by no-ops: the generated wrapper allocates and frees what it would, so measured bytes are real,
and nothing waits for a C++ compiler.  Nothing may fall back to stock (`strict`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memsched
from bench.models import build
from memsched.contract.check import faults_of
from memsched.contract.table import CONTRACT, Needs
from memsched.inductor.backend import memsched_backend
from memsched.inductor.bytes.measure import trace_memory
from memsched.patching.contract import installed_reader
from tests.paths import ROOT

pytestmark = pytest.mark.plans

MODELS = ("gpt", "moe", "contrastive", "looped", "traversal", "preference")
STRICT = {"strict": True}
EXACT = 64
"""Bytes by which a wrapper may differ from the model: scalars of a few bytes that live between graphs."""


@pytest.fixture(autouse=True)
def _fresh(no_kernels: None) -> None:
    del no_kernels
    memsched.reset()


def test_this_torch_has_what_the_contract_lists() -> None:
    assert faults_of(CONTRACT, installed_reader()) == []


def test_a_private_name_that_differs_between_releases_is_found() -> None:
    """Two breaks that once left `train_step` to stock on 2.11 and on 2.15, put back into the table."""
    read = installed_reader()
    path = "torch/_inductor/compile_fx.py"
    old = Needs(path, "create_compiler_config_extra", ("config",))
    renamed = Needs(path, "CompilerConfigExtra", fields=("forward_device", "forward_is_partitioned"))
    minor = int(torch.__version__.split(".")[1])
    assert bool(faults_of([old], read)) == (minor >= 12)
    assert bool(faults_of([renamed], read)) == (minor >= 15 or minor < 13)


@pytest.mark.parametrize("name", MODELS)
def test_planned_and_the_wrapper_allocates_what_was_planned(name: str) -> None:
    """Forward and backward, each above its own start: the bytes of the plan."""
    for planned, measured in planned_and_measured(name):
        assert abs(measured - planned) <= EXACT


def test_convolutions_take_scratch_memory_that_the_table_knows_within_five_percent() -> None:
    """The table of workspaces was measured on 2.13; on 2.11 the library takes 4.6 KB more in one backward."""
    for planned, measured in planned_and_measured("resnet"):
        assert abs(measured - planned) <= 0.05 * planned


def planned_and_measured(name: str) -> list[tuple[int, int]]:
    """Peaks of the forward and the backward above the bytes at their begin, planned and measured."""
    workload = build(name, "small")
    model = torch.compile(workload.model, backend=memsched_backend, options=STRICT)
    peaks: list[int] = []

    def step() -> None:
        held: list[Tensor] = []
        peaks.append(trace_memory(lambda: held.append(model(*workload.batch))).peak)
        loss = held.pop()
        peaks.append(trace_memory(loss.backward).peak)

    for _ in range(3):
        step()
        workload.model.zero_grad(set_to_none=True)
    reports = memsched.reports()
    assert [report.kind for report in reports] == ["forward", "backward"]
    assert not any(report.fallback for report in reports)
    assert all(report.peak <= report.stock_peak for report in reports)
    planned = [report.peak - (report.graph.start_bytes if report.graph else 0) for report in reports]
    return list(zip(planned, peaks[-2:], strict=True))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_train_step_is_planned_and_never_left_to_stock(optimizer: Any) -> None:
    workload = build("gpt", "small")
    step = memsched.train_step(workload.model, optimizer(workload.model.parameters(), lr=1e-3), options=STRICT)
    for _ in range(2):
        step(*workload.batch)
    measured = trace_memory(lambda: step(*workload.batch)).peak
    assert step.report is not None
    plan = step.report.plan
    assert plan.kind == "step" and not plan.fallback
    assert abs(measured - plan.peak) <= EXACT


def test_nothing_orders_again_behind_the_plan() -> None:
    """With CUDA graphs Inductor ordered once more, for few partitions: 261,896 bytes where 188,160 were planned."""
    workload = build("contrastive", "small")
    model = torch.compile(workload.model, backend="memsched", mode="reduce-overhead")
    for _ in range(2):
        model(*workload.batch).backward()
        workload.model.zero_grad(set_to_none=True)
    measured = trace_memory(lambda: model(*workload.batch).backward()).peak
    assert abs(measured - max(report.peak for report in memsched.reports())) <= EXACT


def test_the_rewrites_are_made() -> None:
    """Tied weights: `addmm` of the logits' gradient is split, a convolution's gradients are two."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(64, 8)
            self.layer = nn.Linear(8, 8)

        def forward(self, tokens: Tensor) -> Tensor:
            logits = self.layer(self.embedding(tokens)) @ self.embedding.weight.T
            return nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())

    tied = (Tied(), (torch.randint(64, (8, 32)),))
    for (model, batch), stays in ((tied, {}), (tied, {"fusion": "stock"})):
        torch._dynamo.reset()
        memsched.reset()
        torch.compile(model, backend=memsched_backend, options={**STRICT, **stays})(*batch).backward()
        rewritten = [report.rewrites for report in memsched.reports()]
        assert any(sum(one.values()) for one in rewritten) != bool(stays)


def test_a_pass_of_the_users_over_the_traced_graph_runs() -> None:
    seen = []

    class Own(torch._inductor.custom_graph_pass.CustomGraphPass):  # type: ignore[misc]
        def __call__(self, graph: torch.fx.Graph) -> None:
            seen.append(len(graph.nodes))

        def uuid(self) -> str:
            return "own"

    model = nn.Linear(4, 4)
    options = {**STRICT, "post_grad_custom_post_pass": Own()}
    torch.compile(model, backend=memsched_backend, options=options)(torch.randn(2, 4)).sum().backward()
    assert len(seen) == 2


_CACHED = """
import json, torch, memsched
from torch._inductor import async_compile
async_compile.AsyncCompile.cpp_pybinding = lambda *_, **__: lambda *_: None
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
with torch._functorch.config.patch(enable_autograd_cache=False):
    torch.compile(model, backend="memsched")(torch.randn(4, 8)).sum().backward()
print(json.dumps([[report.peak, report.cached] for report in memsched.reports()]))
"""


def test_a_second_process_loads_the_plans_from_the_cache(tmp_path: Path) -> None:
    def run() -> list[list[Any]]:
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run([sys.executable, "-c", _CACHED], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        rows: list[list[Any]] = json.loads(done.stdout.splitlines()[-1])
        return rows

    first, second = run(), run()
    assert [cached for _, cached in first] == [False, False]
    assert second == [[peak, True] for peak, _ in first]

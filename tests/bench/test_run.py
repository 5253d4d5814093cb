"""The runner: which cases, which rows are missing, what a dead process leaves, and where a step's bytes come from."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench import __main__ as commands
from bench.models import Workload
from bench.run import command as run
from bench.run.cases import Case, Rows, cases_of, read_rows
from bench.run.child import _Run
from bench.run.memory import measure_step, tensor_bytes
from bench.run.step import seconds_in_alternation
from memsched.inductor.bytes.measure import measure_peak

CASE = Case("gpt", "small", "block", 2)


def row(mode: str, status: str = "ok", case: Case = CASE) -> dict[str, Any]:
    return {**{name: getattr(case, name) for name in Case.__dataclass_fields__}, "mode": mode, "status": status}


def test_a_sweep_is_every_policy_with_every_batch_size() -> None:
    cases = cases_of("smoke", ["gpt"], "small", policies=["none", "block"], batches=["1x", "2x", "2", "5"])
    assert [(case.policy, case.batch) for case in cases] == [(p, b) for p in ("none", "block") for b in (2, 4, 5)]


def test_each_model_of_a_suite_has_its_own_policy_and_batch_size() -> None:
    cases = cases_of("ac")
    assert len(cases) >= 12
    assert {case.policy for case in cases} == {"block"}
    assert len({case.batch for case in cases}) > 1


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--models", "nothing"], "--models: 'nothing' is unknown"),
        (["--ac", "all"], "checkpoint policy 'all' is unknown"),
        (["--batch-sizes", "many"], "--batch-sizes: 'many'"),
        (["--jobs", "0"], "--jobs: 0 is too small"),
        (["--device", "cuda"], "no GPU"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(
    arguments: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert run.main([*arguments, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert fault in error
    assert error.count("\n") == 1


def test_rows_that_are_there_are_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resumed after a kill in the middle of a line: eager is done, stock failed, the cut line counts for nothing."""
    rows = Rows(tmp_path)
    rows.add([row("eager"), row("stock", "timeout")])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(json.dumps(row("memsched"))[:40])
    rows = Rows(tmp_path)
    assert rows.missing(CASE, ["eager", "stock", "memsched"]) == ["memsched"]
    assert rows.missing(CASE, ["eager", "stock"], again=True) == ["stock"]
    chosen = ["--models", "gpt", "--size", "small", "--modes", "eager", "memsched", "--output", str(tmp_path)]
    assert run.main([*chosen, "--dry-run"]) == 0
    assert "gpt small block batch 2: memsched\n1 cases, 1 rows to measure" in capsys.readouterr().out


def test_a_later_row_replaces_an_earlier_one(tmp_path: Path) -> None:
    Rows(tmp_path).add([row("stock", "failed"), row("stock")])
    assert [found["status"] for found in read_rows(tmp_path)] == ["ok"]


class TestADeadProcess:
    """eager is measured, then the process dies: one row says so, and the modes after it are left for the next one."""

    TOLD: tuple[dict[str, Any], ...] = ({"doing": "running", "mode": "eager"}, {"row": row("eager")})

    def test_the_mode_that_was_running_is_blamed(self) -> None:
        told = [*self.TOLD, {"doing": "compiling stock", "mode": "stock"}]
        rows = run._rows_of(CASE, ["eager", "stock", "memsched"], told, "signal SIGKILL", "")
        assert [(r["mode"], r["status"]) for r in rows] == [("eager", "ok"), ("stock", "killed")]
        assert "SIGKILL" in rows[1]["reason"]

    def test_a_timeout_is_a_row(self) -> None:
        rows = run._rows_of(CASE, ["stock"], [{"doing": "compiling", "mode": "stock"}], "timeout", "")
        assert [(r["mode"], r["status"]) for r in rows] == [("stock", "timeout")]

    def test_a_model_that_cannot_be_built_fails_in_every_mode(self) -> None:
        rows = run._rows_of(CASE, ["eager", "stock"], [{"doing": "building", "mode": None}], "exit code 1", "KeyError")
        assert [(r["status"], r["reason"]) for r in rows] == [("failed", "exit code 1: KeyError")] * 2

    def test_a_death_while_timing_keeps_the_rows(self) -> None:
        rows = run._rows_of(CASE, ["eager"], [*self.TOLD, {"doing": "timing", "mode": None}], "timeout", "")
        assert [r["status"] for r in rows] == ["ok"]


class Saved(torch.autograd.Function):
    """Doubles; saves 400 bytes of its own, and needs 4000 bytes of scratch in its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(torch.zeros(100))
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        torch.empty(1000)
        return gradient * 2


class Known(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Saved.apply(self.weight) * 3 + x.sum()


def test_the_parts_of_a_peak_are_where_they_come_from() -> None:
    """The peak is the scratch; beside it live what was saved (400 and the loss) and gradients of four bytes."""
    model, batch = Known(), (torch.ones(10),)
    memory = measure_step(model, model, batch, "cpu")
    assert memory.peak_in == "backward"
    assert memory.saved_at_peak in range(404, 420)
    assert memory.gradients == 4
    assert memory.transients_at_peak in range(4000, 4020)
    parts = (memory.saved_at_peak, memory.gradients_at_peak, memory.transients_at_peak)
    assert memory.peak == sum(part or 0 for part in parts)
    model.weight.grad = None
    assert memory.peak == measure_peak(lambda: model(*batch).backward())


def test_a_storage_counts_once() -> None:
    x = torch.ones(10)
    assert tensor_bytes([x, x[2:], x.view(2, 5)]) == 40


def test_times_are_taken_in_turn() -> None:
    order: list[str] = []
    steps = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    assert set(seconds_in_alternation(steps, 3, "cpu")) == {"a", "b"}
    assert order == ["a", "b"] * 3


def test_an_unknown_command_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "walk"])
    assert commands.main() == 2
    assert "'walk' is no command" in capsys.readouterr().err


@pytest.mark.plans
def test_a_real_process_without_the_compiler(tmp_path: Path) -> None:
    """A real process, lowering only: eager is measured, stock and memsched are modelled, all of one case."""
    arguments = ["--models", "gpt", "--size", "small", "--lower-only", "--output", str(tmp_path)]
    assert run.main([*arguments, "--modes", "eager", "stock", "memsched"]) == 0
    eager, stock, planned = read_rows(tmp_path)
    assert [found["status"] for found in (eager, stock, planned)] == ["ok"] * 3
    assert eager["peak"] == sum(eager[f"{part}_at_peak"] for part in ("saved", "gradients", "transients"))
    assert planned["bound"] <= planned["modelled"] <= stock["modelled"]
    assert json.loads((tmp_path / "environment.json").read_text())[0]["torch"] == torch.__version__


@pytest.mark.plans
def test_a_terminated_run_leaves_no_process_and_keeps_its_rows(tmp_path: Path) -> None:
    """Stopped as soon as the first row could be there: what was told is kept, the child and its children are gone."""
    command = [sys.executable, "-m", "bench", "run", "--models", "gpt", "--size", "small", "--output", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "gpt small" in line:
            break
    children = [path for path in Path("/proc").glob("[0-9]*") if f"PPid:\t{process.pid}\n" in _status_of(path)]
    process.terminate()
    assert process.wait(60) == 130
    assert children
    assert not any(path.exists() for path in children)


def test_bytes_only_measures_the_wrapper_and_nothing_else(tmp_path: Path) -> None:
    """Kernels do nothing: the peak is the plan's, and nobody compares gradients that mean nothing."""
    events = tmp_path / "events.jsonl"
    _Run({"case": vars_of(CASE), "modes": ["eager", "memsched"], "repetitions": 0, "depth": "bytes"}, events)()
    told = [json.loads(line) for line in events.read_text().splitlines()]
    eager, planned = (event["row"] for event in told if "row" in event)
    assert eager["status"] == planned["status"] == "ok" and "difference" not in planned
    assert abs(planned["peak"] - planned["modelled"]) <= 64
    assert planned["peak"] < eager["peak"]


def _status_of(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "status").read_text()
    return ""


class TestGradientsAreChecked:
    """A model whose gradient is small against its terms: float32 is far from exact, and a real error farther."""

    @pytest.fixture(autouse=True)
    def _events(self, tmp_path: Path) -> None:
        self.events = tmp_path / "events.jsonl"

    def run_with(self, gradient: float, eager: float = 1.01) -> float:
        torch.manual_seed(0)
        layer = nn.Linear(1, 1, bias=False)
        workload = Workload("tiny", Sum(layer), (torch.tensor([[1e4], [-1e4], [1.0]]),))
        run_case = _Run({"case": vars_of(CASE), "modes": [], "repetitions": 0, "depth": "kernels"}, self.events)
        run_case.reference = Sum(nn.Linear(1, 1, bias=False))
        run_case.reference.layer.weight.grad = torch.tensor([[eager]])
        layer.weight.grad = torch.tensor([[gradient]])
        return run_case.check("eager", workload.model, workload)

    def test_rounding_like_eagers_passes(self) -> None:
        assert self.run_with(0.99) > 1e-3

    def test_more_than_rounding_is_wrong(self) -> None:
        with pytest.raises(AssertionError, match="from those in double precision"):
            self.run_with(1.2)

    def test_a_flipped_relu_passes_where_double_precision_agrees(self) -> None:
        """Eager happens to be exact here, so three times its error allows nothing."""
        assert self.run_with(0.98, eager=1.0) > 1e-3

    def test_what_differs_in_double_precision_too_is_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bench.run.child.compiled", lambda model, mode: lambda x: 2 * model(x))
        with pytest.raises(AssertionError, match="differ by"):
            self.run_with(0.98, eager=1.0)


class Sum(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).sum()


def vars_of(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in Case.__dataclass_fields__}

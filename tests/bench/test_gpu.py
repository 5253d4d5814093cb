"""The command for a machine with a GPU, tried on a CPU: rows at once, failures are rows, the clock is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.gpu import command
from bench.gpu.command import main, table, tasks


def test_memory_comes_first_and_times_last() -> None:
    order = [task["task"] for task in tasks(2)]
    assert order == sorted(order, key=["memory", "train_step", "graphs", "times"].index)


@pytest.mark.plans
def test_a_trial_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One model through every task: no row fails, nothing of ours is above stock, the plan is what is measured."""
    file = tmp_path / "gpu.jsonl"
    assert main(["--device", "cpu", "--models", "gpt", "--minutes", "6", "--output", str(file)]) == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row for row in rows[1:] if row["status"] != "ok"] == []
    peaks = {(row["task"], row["way"]): row for row in rows if "peak" in row}
    assert peaks["memory", "memsched"]["peak"] <= peaks["memory", "stock"]["peak"]
    assert peaks["train_step", "train_step, AdamW"]["peak"] <= peaks["train_step", "stock, then AdamW"]["peak"]
    assert {("graphs", "memsched, reduce-overhead"), ("graphs", "stock, reduce-overhead")} <= peaks.keys()
    planned = peaks["memory", "memsched"]
    assert abs(max(graph["peak"] for graph in planned["graphs"]) - planned["peak"]) <= 64
    assert {row["way"] for row in rows if row["task"] == "times"} == {"eager", "stock", "memsched"}
    assert capsys.readouterr().out == table(rows) + "\n"
    assert main(["--table", "--output", str(file)]) == 0
    assert capsys.readouterr().out == table(rows) + "\n"


def test_a_task_that_dies_or_is_late_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute for two tasks: the first is killed in its time, the second is never begun; both are told."""
    monkeypatch.setattr(command, "_LEAST_SECONDS", 0.5)
    file = tmp_path / "gpu.jsonl"
    assert main(["--device", "cpu", "--models", "looped", "--minutes", "0.02", "--output", str(file)]) == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["status"], row["reason"]) for row in rows[1:]] == [
        ("failed", "the time was over"), ("left out", "no time left"),
    ]  # fmt: skip
    assert "failed: the time was over" in table(rows)


def test_a_task_that_raises_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [{"task": "memory", "model": "no such model", "layers": 2}]
    monkeypatch.setattr(command, "tasks", lambda *_: broken)
    file = tmp_path / "gpu.jsonl"
    assert main(["--device", "cpu", "--minutes", "2", "--output", str(file)]) == 0
    row = json.loads(file.read_text().splitlines()[-1])
    assert row["status"] == "failed" and "'no such model' is unknown" in row["reason"]


def test_a_place_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before minutes of work, and for a table of nothing."""
    nowhere = tmp_path / "nowhere" / "gpu.jsonl"
    for arguments in (
        ["--device", "cpu", "--output", str(nowhere)],
        ["--table", "--output", str(tmp_path / "no.jsonl")],
    ):
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "does not exist" in err


def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([]) == 2
    assert capsys.readouterr().err == "bench gpu: --device cuda: this machine has no GPU that torch can use\n"

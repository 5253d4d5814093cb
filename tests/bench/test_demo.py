"""The demo: its table and pictures from known figures, its faults, and one real run of a very small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.models import Workload, build
from bench.report import readme
from bench.run import demo
from bench.run.figure import draw_step
from bench.run.step import MODES, Mode, StepResult, compare_gradients, run_workload
from memsched.inductor.bytes.measure import MemoryTrace

MIB = 2**20


def known_result() -> StepResult:
    """Stock needs 4 MiB, eager 2, memsched 1 with a bound of 1."""
    trace = MemoryTrace(4 * MIB, 0, (0.0, 0.5, 1.0), (MIB, 4 * MIB, 0))
    modes = {
        "eager": Mode("eager", peak=2 * MIB, seconds=2.0, trace=trace),
        "stock": Mode("stock", 4 * MIB, 1.0, 10.0, kernels=7, modelled=4 * MIB, trace=trace),
        "memsched": Mode("memsched", MIB, 1.02, 11.0, 0.5, 8, MIB, MIB, "optimal", 3, trace=trace),
    }
    return StepResult("contrastive", "cpu", modes)


def test_the_table_puts_the_three_modes_side_by_side() -> None:
    rows = demo.markdown_table([known_result()]).splitlines()
    assert len(rows) == 2 + len(MODES)
    assert rows[-1].split(" | ") == [
        "| contrastive", "memsched", "1.00", "0.25", "0.50", "1.02", "8", "11", "0.5 s, 5.0%", "1.00", "1.00", "0.0%",
        "optimal |",
    ]  # fmt: skip


def test_the_picture_is_a_png() -> None:
    assert draw_step(known_result()).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--models", "nothing"], "--models: 'nothing' is unknown"),
        (["--device", "cuda"], "no GPU"),
        (["--repetitions", "0"], "--repetitions: 0"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(
    arguments: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert demo.main(arguments) == 2
    error = capsys.readouterr().err
    assert fault in error
    assert error.count("\n") == 1


def test_unknown_models_and_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="model 'no' is unknown"):
        build("no")
    with pytest.raises(ValueError, match="no size 'huge'"):
        build("gpt", "huge")


def test_different_gradients_are_noticed() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    for model, factor in ((first, 1.0), (second, 1.01)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, factor)
    with pytest.raises(AssertionError, match="gradients of weight differ"):
        compare_gradients(first, second)
    second.bias.grad = None
    second.weight.grad = first.weight.grad
    with pytest.raises(AssertionError, match="only one of two runs has a gradient for bias"):
        compare_gradients(first, second)


def test_a_gradient_that_is_only_rounding_is_no_difference() -> None:
    """The bias of an attention's keys has no effect: its gradient is zero but for rounding."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    for model, rounding in ((first, 1e-9), (second, -1e-9)):
        model.weight.grad = torch.ones(2, 2)
        model.bias.grad = torch.full((2,), rounding)
    assert compare_gradients(first, second) < 1e-3
    second.bias.grad = torch.full((2,), 1e-3)
    with pytest.raises(AssertionError, match="gradients of bias differ"):
        compare_gradients(first, second)


def markers(*names: str) -> str:
    return "".join(f"<!-- begin: {name} --> old <!-- end: {name} -->\n" for name in names)


def test_the_readme_takes_its_tables_between_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert readme.main(["missing"]) == 2
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"a {markers('ladder', 'benchmark')}")
    (tmp_path / "docs" / "results.md").write_text(markers("demo", "random-models", "depth"))
    results = tmp_path / "results"
    results.mkdir()
    (results / "results.md").write_text("| table |\n")
    (results / "results.json").write_text(json.dumps({"environment": {"torch": "2.13", "cores": 2}}))
    readme.ORDERS.parent.mkdir(parents=True)
    readme.BENCHMARK.mkdir(parents=True)
    case = {"model": "gpt", "size": "cpu", "policy": "block", "batch": 4, "device": "cpu", "status": "ok", "reason": ""}
    measured = [
        case | {"mode": mode, "peak": peak << 20} for mode, peak in (("eager", 4), ("stock", 8), ("memsched", 2))
    ]
    (readme.BENCHMARK / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in measured))
    row = {"status": "optimal", "proved": False}
    readme.ORDERS.write_text(json.dumps({"summary": {"graphs": "1"}, "rows": [row]}))
    whole = {"setting": "order and fusion", "moment": "loss", "peak": 3 << 20, "stock_peak": 4 << 20, "kernels": 9}
    whole |= {"flops": 100, "recompute_flops": 0}
    chunked = whole | {"setting": "loss in 4 chunks", "peak": 1 << 20, "recompute_flops": 25}
    for file in readme.LADDERS:
        file.write_text(json.dumps({"rungs": [whole, chunked]}))
    one = {"family": "views", "seed": 0, "inference": False}
    for way, peak in (("stock", 1000), ("memsched", 500)):
        one |= {way: peak, f"{way}_planned": peak, f"{way}_kernels": 3}
    readme.RANDOM.write_text(json.dumps([one]))
    deep = {
        "model": "gpt",
        "layers": 4,
        "ops": 9,
        "stock_s": 2.0,
        "planner_s": 0.5,
        "peak": 3,
        "stock_peak": 4,
        "gap": 0,
    }
    readme.DEPTH.write_text(json.dumps([deep]))
    assert readme.main(["results"]) == 2
    assert "docs/results.md: the markers of 'orders' are missing" in capsys.readouterr().err
    assert " old " in (tmp_path / "README.md").read_text(), "neither page is written where one cannot be"
    with (tmp_path / "docs" / "results.md").open("a") as file:
        file.write(markers("orders"))
    assert readme.main(["results"]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("a <!-- begin: ladder -->\n| lever |")
    assert "| stock | | 4.00 | 1.00 |" in text and "| loss in 4 chunks | loss | 1.00 | 0.25 | 25% | 9 |" in text
    assert "| `train_step`: loss in 4 chunks | loss |" in text
    assert "| gpt | 4.00 | 8.00 | 2.00 | 0.25 | 0.50 |" in text
    results_page = (tmp_path / "docs" / "results.md").read_text()
    assert " old " not in text + results_page
    assert "| table |" in results_page and "only a rerun can confirm | 1 |" in results_page
    assert "| views | 0.500 |" in results_page
    assert "| gpt | 4 | 9 | 2.0 | 0.5 | 25% | 0.75 | 0.0% |" in results_page
    assert readme.main([]) == 0
    assert (tmp_path / "docs" / "results.md").read_text() == results_page, "without a demo's folder its block stays"


@pytest.mark.compile
def test_one_real_run(tmp_path: Path) -> None:
    """Compile, check, measure and time a model of one layer, as the demo does with its real ones."""

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).square().mean()

    torch.manual_seed(0)
    told: list[str] = []
    options: dict[str, Any] = {"strict": True}
    with torch._inductor.config.patch(force_disable_caches=True):
        result = run_workload(Workload("tiny", Tiny(), (torch.randn(8, 16),)), "cpu", 2, told.append, options)
    planned, stock = result.modes["memsched"], result.modes["stock"]
    assert planned.peak <= stock.peak
    assert planned.modelled is not None and planned.lower_bound is not None
    assert planned.lower_bound <= planned.modelled
    assert planned.difference is not None and planned.difference < 1e-5
    assert all(mode.seconds > 0 and mode.peak > 0 for mode in result.modes.values())
    assert "tiny: compiling stock" in told
    json.dumps(result.to_json())
    demo._save([result], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.png", "results.json", "results.md"}

"""The report: from known rows to the right cells, with failures as lines, and the same files from the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.report import command as report
from bench.report.instances import fusion_costs, methods
from bench.report.tables import Table, geometric_mean, group_rows, headline, tables
from bench.run.cases import Rows

MIB = 2**20


def row(mode: str, peak: int = 0, model: str = "gpt", **more: Any) -> dict[str, Any]:
    case = {"model": model, "size": "cpu", "policy": "block", "batch": 4, "device": "cpu"}
    figures = {"status": "ok", "reason": "", "peak": peak * MIB, "seconds": 1.0} if peak else {}
    return case | {"mode": mode, "timed_with": ["eager", "memsched", "stock"]} | figures | more


def graph(peak: int, bound: int) -> dict[str, Any]:
    return {
        "kind": "backward", "ops": 100, "kernels": 90, "peak": peak, "bound": bound, "status": "bounded",
        "method": "local", "seconds": 0.5, "series_parallel": False, "kernel_size": 25,
    }  # fmt: skip


def known_rows() -> list[dict[str, Any]]:
    """Stock needs 8 MiB, eager 4, memsched 2 with a bound of 1; another model runs out of memory under memsched."""
    plan = {"modelled": 2 * MIB, "bound": MIB, "gap": 1.0, "plan": "bounded", "kernels": 9, "planner_seconds": 0.5}
    parts = {"peak_in": "backward", "saved_at_peak": MIB, "gradients_at_peak": 2 * MIB, "transients_at_peak": MIB}
    ends = {"saved": MIB, "gradients": 2 * MIB, "parameter_bytes": 2 * MIB}
    return [
        row("eager", 4, **parts, **ends),
        row("stock", 8, kernels=7, modelled=8 * MIB, compile_seconds=12.0),
        row("memsched", 2, seconds=1.02, graphs=[graph(2, 1)], **plan),
        row("eager", 4, "unet"),
        row("stock", 4, "unet"),
        row("memsched", 0, "unet", status="out of memory", reason="a | b"),
    ]


def table(title: str) -> Table:
    return next(table for table in tables(group_rows(known_rows())) if table.title == title)


def test_the_modes_of_a_case_stand_side_by_side() -> None:
    (line,) = table("Measured").lines
    assert line[:9] == ("gpt", "block", "4", "4.00", "8.00", "2.00", "0.25", "0.50", "1.02")
    assert line[10:] == ("7 to 9", "12", "0.5", "2.00", "100.0%", "bounded")


def test_settings_that_were_only_lowered_take_part_in_the_sweeps_and_in_all_modes() -> None:
    """The same model once more, with twice the batch: stock needs 16 MiB in the model, eager 10."""
    lowered = {"status": "ok", "reason": "", "measured": False, "modelled": 16 * MIB, "batch": 8}
    twice = [
        *(row(mode, peak, batch=8) for mode, peak in (("eager", 10), ("aot_eager", 9))),
        *(row(mode, **lowered) for mode in ("stock", "stock_no_reorder", "order", "memsched")),
    ]
    made = {table.title: table for table in tables(group_rows([*known_rows(), *twice]))}
    first, second = made["By checkpoint policy and batch size"].lines
    assert first == ("block", "1x", "1", "2.00", "1", "0.50", "0", "0.25", "0")
    assert second == ("block", "2x", "1", "1.60", "1", "1.60", "1", "1.00", "0")
    assert made["All modes"].lines == [("gpt", "block", "8", "10.00", "9.00", *["*16.00*"] * 4)]


def test_the_parts_of_the_peak_are_listed() -> None:
    (line,) = table("What the peak consists of").lines
    assert line[3:] == ("eager", "backward", "4.00", "1.00", "2.00", "1.00", "1.00", "2.00", "2.00")


def test_the_kernel_of_a_graph_is_what_series_parallel_parts_leave() -> None:
    (line,) = table("Series-parallel graphs").lines
    assert line[3:8] == ("backward", "100", "no", "25", "75%")


def test_a_failure_is_a_line_with_its_reason_and_takes_part_in_no_mean() -> None:
    assert table("Failures").lines == [("unet", "block", "4", "memsched", "out of memory", "a \\| b")]
    opening = " ".join(headline(group_rows(known_rows())))
    assert "2 models in 2 settings, 6 rows, 1 of them failures" in opening
    assert "0.25 of stock's in the mean of 1 settings" in opening


def test_what_is_modelled_replaces_nothing_that_was_measured() -> None:
    """Two runs, in either order: one measured and one that only lowered."""
    measured, lowered = row("stock", 8, measured=True), row("stock", measured=False, status="ok", modelled=9 * MIB)
    for rows in ([measured, lowered], [lowered, measured]):
        (group,) = group_rows(rows)
        assert group.value("stock", "peak") == 8 * MIB


def test_steps_that_were_not_timed_together_are_not_compared() -> None:
    (group,) = group_rows([row("stock", 4), row("memsched", 4) | {"timed_with": ["memsched"]}])
    assert group.ratio("peak", "memsched", "stock") == 1.0
    assert group.time_ratio("memsched", "stock") is None


def test_the_mean_of_ratios_is_geometric() -> None:
    assert geometric_mean([0.5, None, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([None]) is None


def test_what_fusion_costs_is_the_bound_after_it_over_the_best_before() -> None:
    """Before fusion 4 MiB are possible, after it not less than 6: half as much again, whatever the order."""
    common = {"model": "gpt", "size": "cpu", "policy": "block", "kind": "backward", "device": "cpu", "method": "local"}
    before = common | {"stage": "prefusion", "ops": 20, "stock": 5 * MIB, "best": 4 * MIB, "lb": 4 * MIB}
    after = common | {"stage": "postfusion", "ops": 9, "stock": 8 * MIB, "best": 6 * MIB, "lb": 6 * MIB}
    index = [row | {"status": "optimal"} for row in (before, after)]
    costs = fusion_costs(index)
    assert costs.lines == [
        ("gpt", "block", "backward", "20 to 9", "5.00", "4.00", "8.00", "6.00", "6.00", "1.50", "optimal")
    ]
    assert "above 1 in 1 of 1 computations" in costs.about
    assert methods(index).lines == [("local", "2", "2", "0.77", "20")]


def test_the_same_rows_give_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    Rows(run).add(known_rows())
    (run / "environment.json").write_text(json.dumps([{"torch": "2.13", "cores": 2}]))
    written = []
    for _ in range(2):
        assert report.main([str(run), "--output", str(tmp_path / "out")]) == 0
        written.append({file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()})
    assert written[0] == written[1]
    assert {"report.md", "rows.csv", "peaks.png", "times.png", "gaps.png"} <= set(written[0])
    text = written[0]["report.md"].decode()
    assert "torch 2.13, cores 2" in text
    for name in written[0]:
        assert not name.endswith(".png") or f"({name})" in text
    assert written[0]["rows.csv"].count(b"\n") == 7


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1

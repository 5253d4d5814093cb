"""Captured graphs: named by what they are, consistent with their index, and those of the scheduler itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.orders import capture
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.files.graph_file import read_graph
from tests.paths import ROOT


def test_a_line_of_the_index_says_what_the_graph_is_of() -> None:
    """Two ops in a chain: 10 bytes, then 20 that are kept; every order is the best one."""
    buffers = (Buffer("a", 10, 0, (1,)), Buffer("b", 20, 1, (), True))
    graph = Graph("g", (Op("first"), Op("second")), buffers, stage="postfusion", stock_peaks={"incoming": 30})
    row = capture.describe("gpt.cpu.budget-0.5.backward.postfusion", graph, 1.0)
    assert (row["model"], row["policy"], row["kind"], row["stage"]) == ("gpt", "budget-0.5", "backward", "postfusion")
    assert row["best"] == row["lb"] == 30
    assert row["status"] == "optimal"


def test_bad_arguments_are_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert capture.main(["--models", "nothing"]) == 2
    assert "'nothing' is unknown" in capsys.readouterr().err


@pytest.mark.plans
def test_a_model_is_captured_before_and_after_fusion_and_only_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--models", "gpt", "--size", "small", "--output", str(tmp_path)]
    assert capture.main(arguments) == 0
    index = [json.loads(line) for line in (tmp_path / capture.INDEX).read_text().splitlines()]
    assert {(row["kind"], row["stage"]) for row in index} == {
        (kind, stage) for kind in ("forward", "backward", "inference") for stage in ("prefusion", "postfusion")
    }
    for row in index:
        graph = read_graph(tmp_path / f"{row['name']}.json.gz")
        assert row["ops"] == len(graph.ops)
        assert row["lb"] <= row["best"] <= row["stock"] == min(graph.stock_peaks.values())
        assert graph.stock_peaks["incoming"] == peak_bytes(graph, range(len(graph.ops)))
    ops = {(row["kind"], row["stage"]): row["ops"] for row in index}
    assert ops["backward", "postfusion"] < ops["backward", "prefusion"]
    capsys.readouterr()
    assert capture.main(arguments) == 0
    assert "[1/" not in capsys.readouterr().err


COMMITTED = ROOT / "bench" / "instances" / "captured"


@pytest.mark.skipif(not COMMITTED.exists(), reason="no library of captured graphs")
def test_the_committed_index_lists_the_committed_graphs() -> None:
    index = [json.loads(line) for line in (COMMITTED / capture.INDEX).read_text().splitlines()]
    assert [row["name"] for row in index] == sorted(file.name[:-8] for file in COMMITTED.glob("*.json.gz"))
    for row in index:
        assert row["lb"] <= row["best"] <= row["stock"]
        assert (row["status"] == "optimal") == (row["lb"] == row["best"])

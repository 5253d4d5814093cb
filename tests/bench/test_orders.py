"""The comparison of methods: ratios against the best that is known, shares of what is proved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.orders import command as orders
from bench.orders.methods import Answer, scores
from memsched.core.graph import Buffer, Graph, Op
from memsched.files.graph_file import write_graph
from tests.paths import ROOT


def test_scores_are_against_the_best_of_all_methods() -> None:
    """Two graphs: the first method is at the best peak of one of them, and twice above the other."""
    answers = {
        "weak": {"a": Answer(10, False, 0.1), "b": Answer(40, False, 0.3)},
        "strong": {"a": Answer(10, True, 1.0), "b": Answer(20, True, 1.0)},
    }
    weak, strong = scores(answers, {"a": 10, "b": 20})
    assert weak.mean_ratio == pytest.approx(2**0.5)
    assert (weak.worst_ratio, weak.at_best, weak.proved, weak.worst_seconds) == (2.0, 0.5, 0.0, 0.3)
    assert (strong.mean_ratio, strong.at_best, strong.proved) == (1.0, 1.0, 1.0)


def test_the_table_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two branches into one op; the program order computes both large inputs before it shrinks either.

    0 (9) ──> 2 (1) ──┐        incoming  0 1 2 3 4    9 + 9 + 1
    1 (9) ──> 3 (1) ──┴─> 4    best      0 2 1 3 4    1 + 9 + 1
    """
    buffers = [Buffer("a", 9, 0, (2,)), Buffer("b", 9, 1, (3,)), Buffer("c", 1, 2, (4,)), Buffer("d", 1, 3, (4,))]
    graph = Graph("branches", tuple(Op(f"op{at}") for at in range(5)), tuple(buffers))
    write_graph(tmp_path / "branches.json", graph)
    assert orders.main([str(tmp_path), "--methods", "incoming", "auto", "--json"]) == 0
    incoming, auto = json.loads(capsys.readouterr().out)["scores"]
    assert incoming["mean_ratio"] == pytest.approx(19 / 11)
    assert (auto["mean_ratio"], auto["proved"]) == (1.0, 1.0)
    assert orders.main([str(tmp_path), "--methods", "auto"]) == 0
    assert "| auto | 1.0000 |" in capsys.readouterr().out


def test_a_unit_of_work_is_measured_for_every_stage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from bench.orders import prices

    (source,) = sorted((ROOT / "bench" / "instances").glob("mlp_ln_gelu_ac.bwd.prefusion.json.gz"))
    (tmp_path / source.name).write_bytes(source.read_bytes())
    assert prices.main([str(tmp_path), "--units", "200"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [stage.name for stage in prices.STAGES]

"""The benchmark of training steps: arguments, records that survive another run, the table."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from bench.run.train_step import main
from bench.run.train_step_records import Record, load, markdown_table, save


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "gtp"], "--models: 'gtp' is unknown"),
        (["--optimizers", "lbfgs"], "--optimizers: 'lbfgs' is unknown"),
        (["--repetitions", "0"], "--repetitions: 0 is not 1 or more"),
    ],
)
def test_bad_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_file_of_something_else_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"rows": []}\n')
    assert main(["--table", "--output", str(other)]) == 2
    assert str(other) in capsys.readouterr().err


def test_records_of_two_runs_stand_side_by_side(tmp_path: Path) -> None:
    """The second run saves its own way only; ratios are to the ways of the same model, size and optimizer."""
    path = tmp_path / "results.json"
    for way, peak in (("stock", 4 << 20), ("eager, in backward", 2 << 20), ("train_step", 1 << 20)):
        record = Record("gpt", "sgd", way, "cpu", peak=peak)
        save({("gpt", "sgd", way, "cpu"): record}, path)
    records = list(load(path).values())
    assert [record.way for record in records] == ["stock", "eager, in backward", "train_step"]
    header, rule, *rows = markdown_table(records).splitlines()
    assert {line.count("|") for line in (header, rule, *rows)} == {header.count("|")}
    assert "| train_step | 1.00 | 0.25 | 0.50 |" in rows[-1]
    assert path.with_suffix(".md").read_text() == markdown_table(records)

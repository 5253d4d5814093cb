"""Every memsched command that the README shows runs, from a copy of the files that it names."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from memsched import cli
from tests.paths import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    memsched ")]


def test_the_readme_shows_commands() -> None:
    assert len(COMMANDS) >= 3


def test_all_commands_run_in_the_order_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench" / "instances").mkdir(parents=True)
    for graph in (ROOT / "bench" / "instances").glob("*.json.gz"):
        shutil.copy(graph, tmp_path / "bench" / "instances")
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        assert cli.main(shlex.split(command)[1:]) == 0, f"{command}: {capsys.readouterr().err}"
        printed = capsys.readouterr()
        assert not printed.err
        words = shlex.split(command)
        if "-o" in words:
            assert (tmp_path / words[words.index("-o") + 1]).stat().st_size > 0
        else:
            assert printed.out


def test_files_that_the_readme_links_exist() -> None:
    for name in ("docs/architecture.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        assert f"({name})" in README
        assert (ROOT / name).exists()

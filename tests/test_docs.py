"""Every command that a page shows runs, in the order shown, from a folder with the files that the page names."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memsched.cli import EXIT_DONE, main
from memsched.pytest_plugin import assert_peak
from tests.paths import ROOT

pytestmark = pytest.mark.plans

_ = assert_peak  # the fixture, also where the plugin is not installed

DOCS = ROOT / "docs"

PAGES = (
    "understand-my-peak.md",
    "gate-in-ci.md",
    "lower-my-peak.md",
    "read-a-certificate.md",
    "parallel.md",
    "experts.md",
)
"""Pages whose commands need no more than a folder."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the `train.py` of the pages and the captured graphs; what it imports is forgotten."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "train.py").write_text(python_of("understand-my-peak.md", "train.py"))
    (tmp_path / "moe.py").write_text(python_of("experts.md", "moe.py"))
    (tmp_path / "bench" / "instances").mkdir(parents=True)
    for graph in (ROOT / "bench" / "instances").glob("*.json.gz"):
        if graph.name.startswith(("mlp_", "gpt_ac.bwd.postfusion")):
            shutil.copy(graph, tmp_path / "bench" / "instances")
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def python_of(page: str, name: str) -> str:
    """The Python block of a page that begins with `# name`."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)
    return next(block for block in blocks if f"# {name}\n" in block)


def commands_of(page: Path) -> list[str]:
    """The indented commands of a page, without comments."""
    lines = page.read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith(("    memsched ", "    pytest "))]


def test_every_page_with_commands_is_run_by_a_test() -> None:
    """Here, or where a test names the page."""
    others = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    for page in DOCS.glob("*.md"):
        if commands_of(page) and page.name not in PAGES:
            assert any(page.name in text for text in others), page.name


outputs: dict[str, str] = {}
"""What each command has printed: the pages share some, and planning the same step again would say the same."""


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_the_pages_run(
    page: str, project: Path, capsys: pytest.CaptureFixture[str], assert_peak: Callable[..., int]
) -> None:
    commands = commands_of(DOCS / page)
    assert commands
    for command in commands:
        words, _, output = command.partition(" > ")
        program, *argv = shlex.split(words)
        if program == "pytest":
            run_the_page_s_test(page, argv[0], project, assert_peak)
            continue
        writes = "-o" in argv or "--plans" in argv
        if words not in outputs or "explain" not in argv or writes:
            assert main(argv) == EXIT_DONE, command
            outputs[words] = capsys.readouterr().out
        assert outputs[words] or (project / argv[argv.index("-o") + 1]).stat().st_size
        if output:
            (project / output).write_text(outputs[words])


def run_the_page_s_test(page: str, name: str, project: Path, assert_peak: Callable[..., int]) -> None:
    """The test that a page shows, called as pytest would call it."""
    (project / name).write_text(python_of(page, name))
    assert "assert_peak(train.step" in (project / name).read_text()
    import train  # type: ignore[import-not-found]

    assert_peak(train.step, at_most=re.findall(r'at_most="(.*?)"', (project / name).read_text())[0])


def test_the_page_about_certificates_shows_what_verify_prints(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solve, verify = (shlex.split(command)[1:] for command in commands_of(DOCS / "read-a-certificate.md")[:2])
    assert main(solve) == EXIT_DONE
    capsys.readouterr()
    assert main(verify) == EXIT_DONE
    assert capsys.readouterr().out.strip() in (DOCS / "read-a-certificate.md").read_text()


def test_the_page_about_steps_shows_what_its_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(python_of("train-step.md", "moments.py"), "moments.py", "exec"), {})
    printed = capsys.readouterr().out.rstrip().splitlines()
    assert len(printed) > 8
    assert "\n".join(f"    {line}" for line in printed) in (DOCS / "train-step.md").read_text()

"""The patches for PyTorch: they apply to copies of the installed torch, do what they say, and can be taken back.

The installed torch is only read here: its files have the same hashes before and after (`untouched`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.patches.command import with_tables
from memsched.cli import main
from memsched.core.sizes import InputError
from memsched.patching import environment as installed
from memsched.patching.environment import Environment, apply, revert, series_for, status
from memsched.patching.overlay import installed_site
from memsched.patching.series import FOLDER, apply_to_copies, parse_selection, read_series, touched_files
from memsched.patching.versions import VERSIONS, fingerprint, versions_file
from tests.paths import ROOT

SERIES = read_series(FOLDER / "torch-2.13")
WAITING, PLACE, CHAIN, CUTS, ENTRIES, ROUNDS = SERIES


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hashes(site: Path) -> dict[str, str]:
    return {name: sha256(site / name) for name in touched_files(SERIES)}


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """No test of this file changes the installed torch."""
    before = hashes(installed_site())
    yield
    assert hashes(installed_site()) == before


@pytest.fixture
def site(tmp_path: Path) -> Environment:
    """A folder that looks like site-packages, with copies of the files that the patches touch."""
    for name in touched_files(SERIES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(installed_site() / name, tmp_path / name)
    return Environment(tmp_path, "2.13.0", hashes(tmp_path))


def run_patched(*arguments: str, patches: tuple[int, ...] | None = None) -> subprocess.CompletedProcess[str]:
    """A script under the overlay, in a process of its own.

    Where CI is set, PyTorch's `run_tests` writes XML reports with a package that nothing else here needs.
    """
    chosen = [] if patches is None else ["--patches", *map(str, patches)]
    command = [sys.executable, "-m", "memsched.patching.overlay", *chosen, "--", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_every_patch_has_a_message_and_a_test_of_its_own() -> None:
    """What goes upstream says what it does in a subject that fits a line, gives evidence, and brings a new test."""
    for number, patch in enumerate(SERIES, start=1):
        message = patch.path.read_text().split("\n---\n")[0]
        assert patch.number == number
        assert patch.subject.startswith(("[inductor] ", "[functorch] ")) and len(patch.subject) <= 75
        assert len(message.splitlines()) >= 10
        assert len(patch.tests) == 1 and patch.tests[0].startswith("test/inductor/test_")


@pytest.mark.parametrize("chosen", [(n,) for n in range(1, 7)] + [(1, 2), (2, 4), (3, 4), (2, 5), (1, 6)], ids=str)
def test_patches_do_not_need_each_other(site: Environment, chosen: tuple[int, ...]) -> None:
    """Each is one idea: any of them can be sent, taken or left without the others."""
    apply_to_copies(parse_selection(SERIES, chosen), site.site)


def test_apply_and_revert(site: Environment) -> None:
    """apply changes the files that the series names and no other; revert brings back every byte and permission."""
    mode = (site.site / "torch/_inductor/memory.py").stat().st_mode
    changes = apply(site, SERIES, dry_run=False)
    assert {change.name: change.after for change in changes} == hashes(site.site)
    assert all(change.before != change.after for change in changes)
    assert status(site, SERIES)[0] == [1, 2, 3, 4, 5, 6]
    assert {file.state for file in status(site, SERIES)[1]} == {"patched"}
    with pytest.raises(InputError, match="applied already"):
        apply(site, [CHAIN], dry_run=False)
    revert(site)
    assert hashes(site.site) == site.recorded
    assert (site.site / "torch/_inductor/memory.py").stat().st_mode == mode
    assert not site.state_folder.exists()
    with pytest.raises(InputError, match="no patches are applied"):
        revert(site)


def test_dry_run_writes_nothing(site: Environment) -> None:
    before = sorted(path for path in site.site.rglob("*"))
    changes = apply(site, SERIES, dry_run=True)
    assert sorted(path for path in site.site.rglob("*")) == before
    assert hashes(site.site) == site.recorded
    assert all(change.after != change.before for change in changes)


def test_changed_files_are_refused(site: Environment) -> None:
    """A torch that somebody has edited is left alone, before as after: their work would be lost."""
    memory = site.site / "torch/_inductor/memory.py"
    original = memory.read_text()
    memory.write_text(original + "# mine\n")
    with pytest.raises(InputError, match=r"memory\.py: not the file that was installed"):
        apply(site, SERIES, dry_run=False)
    memory.write_text(original)
    apply(site, SERIES, dry_run=False)
    memory.write_text(memory.read_text() + "# mine\n")
    with pytest.raises(InputError, match=r"memory\.py: changed since"):
        revert(site)
    assert {file.state for file in status(site, SERIES)[1]} == {"patched", "changed"}


def test_other_versions_are_refused() -> None:
    with pytest.raises(InputError, match=r"torch 2\.12\.1: there are no patches tested on it"):
        series_for("2.12.1")
    assert series_for("2.13.1+cu132") == SERIES


def test_misfit_leaves_nothing_behind(site: Environment) -> None:
    """A hunk that does not fit ends it before the first file is written."""
    memory = site.site / "torch/_inductor/memory.py"
    memory.write_text(memory.read_text().replace("def reorder_for_peak_memory(", "def reorder("))
    other = Environment(site.site, site.version, hashes(site.site))
    with pytest.raises(InputError, match=CUTS.path.name):
        apply(other, SERIES, dry_run=False)
    assert hashes(site.site) == other.recorded
    assert not other.state_folder.exists()


def test_failure_halfway_is_undone(site: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up at the second file: the first one is put back."""
    replace, written = installed._replace, []

    def full_disk(path: Path, source: Path) -> None:
        if len(written) == 1 and site.state_folder not in source.parents:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        replace(path, source)

    monkeypatch.setattr(installed, "_replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        apply(site, SERIES, dry_run=False)
    assert hashes(site.site) == site.recorded
    assert not site.state_folder.exists()


def test_command_line(site: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --yes apply only tries; status and revert tell what there is; errors are one line and exit code 2."""
    monkeypatch.setattr("memsched.cli.patches.installed_environment", lambda: site)
    assert main(["patches", "apply"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert hashes(site.site) == site.recorded
    assert main(["patches", "apply", "--patches", "3", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["patches"] == [3]
    assert main(["patches", "status"]) == 0
    assert "3  applied" in capsys.readouterr().out
    assert main(["patches", "revert"]) == 0
    capsys.readouterr()
    assert main(["patches", "apply", "--patches", "9"]) == 2
    assert capsys.readouterr().err.startswith("memsched: there is no patch 9")


def test_versions_were_checked_with_these_patches() -> None:
    """versions.json is what `make patches-check` found for the files as they are now."""
    data: dict[str, Any] = json.loads(versions_file.read_text())
    assert data["files"] == fingerprint(SERIES)
    assert [result["version"] for result in data["versions"]] == list(VERSIONS)


def test_readme_holds_the_tables_of_the_results() -> None:
    text = (FOLDER / "README.md").read_text()
    assert with_tables(text) == text


def extracted_tests(folder: Path) -> list[str]:
    """The tests that the patches add to PyTorch, as files."""
    for patch in SERIES:
        command = ["git", "apply", "-p1", "--include=test/*", str(patch.path)]
        subprocess.run(command, cwd=folder, check=True)
    return [str(folder / name) for patch in SERIES for name in patch.tests]


@pytest.mark.plans
def test_the_tests_that_go_upstream_pass_and_can_fail(tmp_path: Path) -> None:
    """Under the overlay the new tests of the orders pass; on stock the one that needs no new name fails as reported."""
    _, place, chain, cuts, entries, rounds = extracted_tests(tmp_path)
    runner = tmp_path / "run.py"
    names = [place, chain, cuts, entries, rounds]
    runner.write_text(
        "import sys, unittest\n"
        f"sys.path.insert(0, {str(Path(place).parent)!r})\n"
        f"suite = unittest.defaultTestLoader.loadTestsFromNames({[Path(n).stem for n in names]!r})\n"
        "result = unittest.TextTestRunner().run(suite)\n"
        "import torch._inductor.memory as memory\n"
        "print(result.testsRun, result.wasSuccessful(), memory.__file__)\n"
    )
    patched = run_patched(str(runner))
    assert patched.stdout.startswith("13 True "), patched.stderr
    assert str(installed_site()) not in patched.stdout
    stock = run_patched(chain, patches=())
    assert stock.returncode and "RecursionError" in stock.stderr
    starved = run_patched(rounds, patches=())
    assert starved.returncode and "test_a_group_of_cycles_does_not_end_the_round" in starved.stderr


@pytest.mark.compile
def test_waiting_fusion_upstream_test(tmp_path: Path) -> None:
    """The test of patch 1 compiles two small graphs with and without the guard."""
    waiting = extracted_tests(tmp_path)[0]
    done = run_patched(waiting, patches=(1,))
    assert done.returncode == 0 and "OK" in done.stderr, done.stderr


@pytest.mark.plans
def test_less_memory_for_few_kernels_when_weights_are_used_twice() -> None:
    """Two tiny layers of a contrastive tower: each patch lowers the modelled peak, kernels rise by a tenth at most.

    Batch times tokens is 32 here, so the guard refuses only some of the waiting fusions; cuts find most of the rest.
    """
    done = run_patched("bench.patches.child", "lower", "contrastive:small")
    assert done.returncode == 0, done.stderr
    ways = json.loads(done.stdout)["ways"]
    peaks = {way: found["peak"] for way, found in ways.items()}
    assert max(peaks["1"], peaks["2"]) < peaks["stock"]
    assert peaks["1+2"] <= peaks["1"]
    assert peaks["1+2+4"] < 0.8 * peaks["stock"]
    assert ways["1+2"]["kernels"] <= 1.10 * ways["stock"]["kernels"]

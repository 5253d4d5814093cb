"""The command line: exit codes, what is printed, and that `verify` believes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memsched.cli import COMMANDS, EXIT_BAD_INPUT, EXIT_DONE, EXIT_NOT_VERIFIED, EXIT_ROSE, main
from memsched.cli.command import EXIT_CLAIMED
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.result import StatementCertificate
from memsched.files.graph_file import write_graph
from memsched.search import solver
from memsched.search.solver import METHODS, Stage
from memsched.search.state import State
from tests.core.test_graph import diamond
from tests.oracle import brute_force_peak, random_graphs
from tests.paths import ROOT
from tests.search.test_solver import two_hills


def crossing() -> Graph:
    """a ──> c, a ──> d, b ──> d: the N, which is not series-parallel."""
    buffers = (Buffer("X", 4, 0, (2,)), Buffer("Y", 1, 0, (3,)), Buffer("Z", 2, 1, (3,)))
    return Graph("crossing", tuple(map(Op, "abcd")), buffers)


@pytest.fixture
def graph_file(tmp_path: Path) -> Path:
    """Two hills: every order needs 11 bytes, and a decomposition tree or a cut proves it."""
    path = tmp_path / "hills.json"
    write_graph(path, two_hills())
    return path


@pytest.fixture
def plan_file(tmp_path: Path, graph_file: Path) -> Path:
    path = tmp_path / "plan.json"
    assert main(["solve", str(graph_file), "--json", "-o", str(path)]) == EXIT_DONE
    return path


def test_solve_prints_one_plan_object(graph_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", str(graph_file), "--json"]) == EXIT_DONE
    out, err = capsys.readouterr()
    plan = json.loads(out)
    assert out.count("\n") == 1 and not err
    assert plan["format"] == "memsched-plan/1"
    fields = {"name", "ops", "peak", "lower_bound", "gap", "status", "method", "seconds", "order", "certificate"}
    assert fields <= plan.keys()
    assert (plan["peak"], plan["lower_bound"], plan["status"], plan["gap"]) == (11, 11, "optimal", 0.0)


def test_solve_prints_tables(graph_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stock's four orders, peak, bound and who enforces it, gap, and the largest buffers at the peak."""
    assert main(["solve", str(graph_file)]) == EXIT_DONE
    out = capsys.readouterr().out
    for word in (
        "incoming",
        "lpmf",
        "bfs",
        "dfs",
        "peak",
        "lower bound",
        "gap",
        "optimal",
        "11 bytes",
        "from b0",
        "9 bytes",
    ):
        assert word in out


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("ilp", "cbc", "cpsat", "model-ilp")])
def test_every_method_can_be_asked_for(graph_file: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", str(graph_file), "--json", "--method", method]) == EXIT_DONE
    assert json.loads(capsys.readouterr().out)["peak"] == 11


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dance"],
        ["solve"],
        ["solve", "g", "--method", "magic"],
        ["solve", "g", "--time-limit", "-1"],
        ["solve", "g", "--time-limit", "nan"],
        ["solve", "g", "--time-limit", "inf"],
        ["solve", "g", "--time-limit", "soon"],
        ["verify", "g"],
    ],
)
def test_bad_arguments_exit_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    assert exit_info.value.code == EXIT_BAD_INPUT
    assert "Traceback" not in capsys.readouterr().err


def test_output_that_cannot_be_written(graph_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", str(graph_file), "-o", "/nonexistent/folder/plan.json"]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert "/nonexistent/folder" in err and err.count("\n") == 1


# ---- verify


def test_verify_says_proved(graph_file: Path, plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["verify", str(graph_file), str(plan_file)]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "peak: 11 bytes, recomputed" in out
    assert "status: optimal, proved" in out
    assert "claimed" not in out


def test_verify_says_claimed_when_nothing_can_be_checked(
    graph_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def claim(state: State) -> None:
        state.offer((0, 2, 1, 3, 4), "ilp")
        state.prove(11, StatementCertificate(11, "ilp", "proved by branch and bound"))

    monkeypatch.setitem(solver._STAGES_OF, "auto", (Stage("ilp", claim),))
    plan = str(tmp_path / "plan.json")
    assert main(["solve", str(graph_file), "-o", plan]) == EXIT_DONE
    capsys.readouterr()
    assert main(["verify", str(graph_file), plan, "--proved"]) == EXIT_NOT_VERIFIED
    capsys.readouterr()
    assert main(["verify", str(graph_file), plan]) == EXIT_CLAIMED
    out = capsys.readouterr().out
    assert "claimed by ilp, not re-checkable" in out
    assert "proved" not in out


@pytest.mark.parametrize(
    ("lie", "fault"),
    [
        (lambda plan: plan.update(peak=10), "peak"),
        (lambda plan: plan.update(peak=12), "peak"),
        (lambda plan: plan.update(lower_bound=12), "lower_bound"),
        (lambda plan: plan.update(lower_bound=10, gap=11 / 10 - 1), "status"),
        (lambda plan: plan.update(gap=0.5), "gap"),
        (lambda plan: plan.update(certificate={"kind": "statement", "bound": 99, "method": "ilp"}), "certificate"),
        (lambda plan: plan["order"].reverse(), "runs before"),
        (lambda plan: plan["order"].pop(), "is missing"),
        (lambda plan: plan.update(order=[0, 0, 2, 1, 3]), "occurs twice"),
        (lambda plan: plan.update(ops=6), "ops"),
        (lambda plan: plan.update(graph_digest="0" * 64), "another graph"),
        (lambda plan: plan.update(certificate=None), "certificate|bound"),
        (lambda plan: plan["certificate"].update(bound=10), "proves 10"),
    ],
)
def test_verify_refuses_lies(
    graph_file: Path,
    plan_file: Path,
    lie: Callable[[dict[str, Any]], object],
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every number of a plan is a claim: change one, and verification fails with one line, or stops saying proved."""
    plan = json.loads(plan_file.read_text())
    lie(plan)
    plan_file.write_text(json.dumps(plan))
    capsys.readouterr()
    exit_code = main(["verify", str(graph_file), str(plan_file)])
    out, err = capsys.readouterr()
    if plan["certificate"] is None:
        assert exit_code != EXIT_DONE or "proved" not in out
        return
    assert exit_code == EXIT_NOT_VERIFIED
    assert err.count("\n") == 1 and str(plan_file) in err
    assert fault in err


def test_verify_accepts_what_solve_says_and_nothing_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random graphs: the plan passes; with peak and bound one byte lower, or the bound one byte higher, it does not."""
    graph_path, plan_path = tmp_path / "graph.json", tmp_path / "plan.json"
    for graph in random_graphs(40, seed=61, largest=10):
        write_graph(graph_path, graph)
        assert main(["solve", str(graph_path), "-o", str(plan_path)]) == EXIT_DONE
        assert main(["verify", str(graph_path), str(plan_path)]) == EXIT_DONE
        plan = json.loads(plan_path.read_text())
        assert "proved" in capsys.readouterr().out or plan["certificate"]["kind"] == "statement"
        assert plan["peak"] == brute_force_peak(graph)
        for change in ({"peak": plan["peak"] - 1}, {"lower_bound": plan["lower_bound"] + 1}):
            plan_path.write_text(json.dumps(plan | change))
            assert main(["verify", str(graph_path), str(plan_path)]) == EXIT_NOT_VERIFIED
        capsys.readouterr()


@pytest.mark.parametrize(
    "damage",
    [
        lambda plan: plan.update(format="memsched-graph/1"),
        lambda plan: plan.update(status="perfect"),
        lambda plan: plan.update(order="01234"),
        lambda plan: plan.update(order=[0, 1, 2, 3, "4"]),
        lambda plan: plan.update(peak=11.0),
        lambda plan: plan.update(certificate=[]),
        lambda plan: plan["certificate"].update(kind="oath"),
        lambda plan: plan["certificate"].pop("bound"),
        lambda plan: plan.pop("lower_bound"),
    ],
)
def test_damaged_plans_are_bad_input(
    graph_file: Path,
    plan_file: Path,
    damage: Callable[[dict[str, Any]], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = json.loads(plan_file.read_text())
    damage(plan)
    plan_file.write_text(json.dumps(plan))
    capsys.readouterr()
    assert main(["verify", str(graph_file), str(plan_file)]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and str(plan_file) in err


# ---- tree


def test_tree_as_text_picture_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph_file = tmp_path / "diamond.json"
    write_graph(graph_file, diamond())
    assert main(["tree", str(graph_file), "--segments"]) == EXIT_DONE
    assert "Parallel" in capsys.readouterr().out
    assert main(["tree", str(graph_file), "-o", str(tmp_path / "tree.svg")]) == EXIT_DONE
    assert (tmp_path / "tree.svg").read_text().startswith("<svg")
    assert main(["tree", str(graph_file), "--json"]) == EXIT_DONE
    assert json.loads(capsys.readouterr().out)["tree"] == ["S", 0, ["P", 1, 2], 3]


def test_tree_of_a_graph_that_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_graph(tmp_path / "n.json", crossing())
    assert main(["tree", str(tmp_path / "n.json"), "--json"]) == EXIT_DONE
    answer = json.loads(capsys.readouterr().out)
    assert answer["series_parallel"] is False
    assert answer["induced_n"] == {"a": 0, "b": 1, "c": 2, "d": 3}


# ---- as a program


def run(*argv: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", code] if code else ["-m", "memsched"]), *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_python_dash_m_memsched(graph_file: Path) -> None:
    finished = run("solve", str(graph_file), "--json")
    assert finished.returncode == EXIT_DONE
    assert json.loads(finished.stdout)["peak"] == 11
    finished = run("solve", str(graph_file) + ".gone")
    assert finished.returncode == EXIT_BAD_INPUT
    assert finished.stderr.count("\n") == 1


def test_the_command_line_never_imports_torch(graph_file: Path) -> None:
    code = """
import sys
from memsched.cli import main
assert main(["solve", sys.argv[1]]) == 0
assert "torch" not in sys.modules
"""
    finished = run(str(graph_file), code=code)
    assert finished.returncode == 0, finished.stderr


def test_help_lists_every_command() -> None:
    out = " ".join(run("--help").stdout.split())  # long summaries are wrapped
    assert all(f" {command.name} {command.summary}" in out for command in COMMANDS)


def test_a_reader_that_goes_away_is_not_an_error(graph_file: Path) -> None:
    command = f"{sys.executable} -m memsched solve {graph_file} | head -c 1"
    finished = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in finished.stderr


def test_solve_parallel_prints_the_worst_case_and_verify_follows_it(
    graph_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The statement is proved; with any number changed it is refused in one line."""
    path = tmp_path / "worst.json"
    assert main(["solve", str(graph_file), "--parallel", "any", "--limit", "1x", "-o", str(path)]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "any number of ops at once" in out and " waits for " in out
    assert main(["verify", str(graph_file), str(path)]) == EXIT_DONE
    assert "proved" in capsys.readouterr().out
    stated = json.loads(path.read_text())
    assert stated["format"] == "memsched-worst-case/1" and stated["edges"]
    lies: tuple[tuple[dict[str, Any], int], ...] = (
        ({"held": stated["held"] + 1}, EXIT_BAD_INPUT),  # the status does not follow from it
        ({"held": stated["held"] - 1, "status": "bounded"}, EXIT_NOT_VERIFIED),
        ({"limit": stated["bound"] - 1}, EXIT_NOT_VERIFIED),
        ({"edges": []}, EXIT_NOT_VERIFIED),
        ({"edges": [[0, 99]]}, EXIT_BAD_INPUT),
        ({"started": []}, EXIT_NOT_VERIFIED),
        ({"ops": 3}, EXIT_NOT_VERIFIED),
        ({"graph_digest": "0"}, EXIT_NOT_VERIFIED),
    )
    for lie, exit_code in lies:
        path.write_text(json.dumps(stated | lie))
        assert main(["verify", str(graph_file), str(path)]) == exit_code, lie
        assert capsys.readouterr().err.count("\n") == 1


def test_a_limit_below_every_order_is_a_failed_gate(graph_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", str(graph_file), "--parallel", "2", "--limit", "3"]) == EXIT_ROSE
    assert "no order stays under 3 bytes" in capsys.readouterr().out
    assert main(["solve", str(graph_file), "--parallel", "2", "--limit", "3", "--json"]) == EXIT_ROSE
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1, "what reads JSON is given JSON or nothing"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit", "3"], "--limit needs --parallel"),
        (["--parallel", "2", "--limit", "banana"], "is not a size"),
        (["--parallel", "2", "--limit", "nanx"], "is not a size, nor a multiple"),
    ],
)
def test_bad_limits_are_one_line(
    graph_file: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["solve", str(graph_file), *arguments]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5"])
def test_a_number_of_ops_is_a_number(graph_file: Path, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["solve", str(graph_file), f"--parallel={number}"])
    assert exited.value.code == EXIT_BAD_INPUT
    assert "is not a number of ops" in capsys.readouterr().err


def test_files_come_through_pipes_too(graph_file: Path, plan_file: Path, tmp_path: Path) -> None:
    """What comes through a pipe can be read only once."""
    page = tmp_path / "page.html"
    for arguments, given in (
        (["show", "/dev/stdin", "-o", str(page)], graph_file),
        (["explain", "/dev/stdin"], graph_file),
        (["diff", "/dev/stdin", str(plan_file)], plan_file),
    ):
        command = [sys.executable, "-m", "memsched", *arguments]
        done = subprocess.run(command, input=given.read_bytes(), capture_output=True, cwd=ROOT, check=False)
        assert done.returncode == EXIT_DONE, (arguments, done.stderr)
    assert page.exists()


def test_diff_checks_a_plan_against_its_graph(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An order that leaves an op out was an IndexError."""
    graph = tmp_path / "hills.json"
    whole = tmp_path / "whole.json"
    assert main(["solve", str(graph), "--json"]) == EXIT_DONE
    plan = json.loads(capsys.readouterr().out) | {"graph": json.loads(graph.read_text())}
    plan["order"] = plan["order"][:-1]
    whole.write_text(json.dumps(plan))
    assert main(["diff", str(whole), str(plan_file)]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "whole.json: order: op" in err and "is missing" in err


# ---- completion


def test_a_shell_completes_commands_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    """The script of bash, run by bash, as it does when a user presses the tab key."""
    with pytest.raises(SystemExit) as ended:
        main(["--completion", "bash"])
    script = capsys.readouterr().out
    assert ended.value.code == EXIT_DONE
    for words, expected in ((["memsched", "fus"], "fusions"), (["memsched", "plan", "--train"], "--train-step")):
        press = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_memsched; echo ${{COMPREPLY[@]}}"
        found = subprocess.run(["bash", "-c", f"{script}\n{press}"], capture_output=True, text=True, check=True)
        assert expected in found.stdout.split()


def test_completion_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as ended:
        main(["--completion", "zsh"])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == EXIT_BAD_INPUT and "pip install 'memsched[completion]'" in line

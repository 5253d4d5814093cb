"""The gate: baselines, what counts as risen, the fixture, bad input."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import random
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memsched.cli import EXIT_BAD_INPUT, EXIT_DONE, EXIT_ROSE, main
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.sizes import InputError, parse_bytes, parse_share
from memsched.files.fields import FormatError
from memsched.files.graph_file import write_graph
from memsched.files.json_file import write_json
from memsched.files.plan_file import plan_to_json
from memsched.inductor.storages import workspaces
from memsched.pytest_plugin import assert_peak
from memsched.records.origin import Origin
from memsched.render.baseline import GraphPeak, Peaks, PeakTensor, compare, read_peaks, render_changes, write_peaks
from memsched.search.solver import solve
from tests.search.test_solver import two_hills

pytestmark = pytest.mark.plans

_ = assert_peak  # the fixture, also where the plugin is not installed

STEP = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, wide):
        super().__init__()
        self.first, self.second = nn.Linear(8, wide), nn.Linear(wide, 8)

    def forward(self, x):
        return self.second(self.first(x).exp()).square().mean()

def step():
    return Net(WIDE), torch.randn(16, 8)

def no_batch():
    return Net(8)

def no_loss():
    return (lambda x: x.detach() + 1), torch.randn(3)

class Broken(nn.Linear):
    def forward(self, x):
        x = super().forward(x)
        torch._dynamo.graph_break()
        return x.exp().sum()

def broken():
    return Broken(8, 8), torch.randn(16, 8)

import logging
log = logging.getLogger("narrow")

class Talks(nn.Linear):
    def forward(self, x):
        x = super().forward(x)
        log.warning("of shape %s", x.shape)
        return x.exp().sum()

def talks():
    return Talks(8, 8), torch.randn(16, 8)

class Wrong(nn.Linear):
    def forward(self, x):
        return super().forward(x[:, 1:])

def does_not_compile():
    return Wrong(8, 8), torch.randn(16, 8)

def breaks():
    raise RuntimeError("no weights\\nsecond line")

number = 3
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module `narrow` and a wider one, `wide`; what is imported from it is forgotten."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name, wide in (("narrow", 32), ("wide", 64)):
        (tmp_path / f"{name}.py").write_text(STEP.replace("WIDE", str(wide)))
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


# ---- check


def test_a_risen_peak_fails_and_names_the_tensors(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hidden layer is twice as wide: the table says by how much, the list says which tensors, with their line."""
    gate = ["--baseline", "peaks.json"]
    assert main(["check", "narrow:step", *gate, "--update"]) == EXIT_DONE
    assert main(["check", "narrow:step", *gate]) == EXIT_DONE
    assert "ROSE" not in capsys.readouterr().out
    assert main(["check", "wide:step", *gate, "--tolerance", "1%"]) == EXIT_ROSE
    out = capsys.readouterr().out
    assert re.search(r"forward 0 .*\+\d+\.\d+% ROSE", out)
    assert "appeared at the peak" in out and "float32[16, 64]" in out and "wide.py:11 in forward" in out
    assert main(["check", "wide:step", *gate, "--tolerance", "300%"]) == EXIT_DONE
    assert main(["check", "wide:step", *gate, "--update"]) == EXIT_DONE
    assert main(["check", "wide:step", *gate]) == EXIT_DONE


def test_what_is_kept_does_not_depend_on_the_library_of_this_processor(
    project: Path, monkeypatch: pytest.MonkeyPatch, assert_peak: Callable[..., int]
) -> None:
    """A product in bfloat16 is called for what its library allocates: by `explain`, not by the gates."""
    (project / "half.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def step():\n    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).bfloat16()\n"
        "    return model, torch.randn(64, 64).bfloat16()\n"
    )
    called = []
    monkeypatch.setattr(workspaces, "measured_workspace", lambda call: called.append(call.name))
    half = importlib.import_module("half")
    assert main(["check", "half:step", "--baseline", "peaks.json", "--update"]) == EXIT_DONE
    assert_peak(half.step, at_most="1MiB")
    assert not called
    assert main(["explain", "half:step", "--quick"]) == EXIT_DONE
    assert called


def test_the_graphs_of_a_broken_model_are_taken_one_by_one_when_asked(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "narrow:broken", "--allow-graph-breaks", "--quick", "--all"]) == EXIT_DONE
    out = capsys.readouterr().out
    for graph in ("forward 0", "forward 1", "backward 0", "backward 1"):
        assert f"\n{graph}: " in f"\n{out}"


def peaks(peak: int, *tensors: PeakTensor, name: str = "backward 0") -> Peaks:
    return Peaks((GraphPeak(name, 3, peak, peak, 3, tensors),), "2.13.0", "cpu")


@pytest.mark.parametrize(
    ("before", "after", "tolerance", "rose"),
    [
        (100, 100, 0.0, False),
        (100, 101, 0.0, True),
        (100, 101, 0.01, False),
        (100, 102, 0.01, True),
        (100, 1, 0, False),
    ],
)
def test_what_counts_as_risen(before: int, after: int, tolerance: float, rose: bool) -> None:
    (change,) = compare(peaks(before), peaks(after))
    assert change.rose(tolerance) == rose


def test_a_new_graph_counts_as_risen_and_a_missing_one_does_not() -> None:
    """Else a graph break would hide the rise: its graphs have other names."""
    new, gone = compare(peaks(1, name="backward 0"), peaks(1, name="backward 1"))
    assert new.rose(10.0) and not gone.rose(0.0)
    text = render_changes([new, gone])
    assert "new graph" in text and "gone" in text


def test_a_moved_line_is_the_same_tensor_and_a_second_copy_is_not() -> None:
    tensor = PeakTensor(8, "float32[2]", "aten.exp.default", "first", "model.py:3 in forward: x.exp()")
    moved = replace(tensor, source="model.py:30 in forward: x.exp()")
    (change,) = compare(peaks(8, tensor), peaks(16, moved, moved))
    assert (len(change.appeared), change.gone) == (1, ())
    (change,) = compare(peaks(8, tensor), peaks(8, replace(tensor, size=16)))
    assert [t.size for t in change.appeared] == [16] and [t.size for t in change.gone] == [8]


def test_a_baseline_survives_the_file(tmp_path: Path) -> None:
    tensor = PeakTensor(8, "float32[2]", "aten.exp.default", "first", "model.py:3 in forward: x.exp()")
    write_peaks(tmp_path / "peaks.json", peaks(8, tensor))
    assert read_peaks(tmp_path / "peaks.json") == peaks(8, tensor)


# ---- diff


def test_diff_reads_plans_with_their_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = two_hills()
    schedule = solve(graph)
    origins = {buffer.name: Origin(source=f"model.py:1 in f: {buffer.name}") for buffer in graph.buffers}
    for name, plan in {
        "with.json": plan_to_json(graph, schedule, embed_graph=True, origins=origins),
        "without.json": plan_to_json(graph, schedule),
    }.items():
        write_json(tmp_path / name, plan)
    assert main(["diff", str(tmp_path / "with.json"), str(tmp_path / "without.json")]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "11 bytes" in out and "gone from the peak" in out and "model.py:1 in f" in out


def plans_in(folder: Path, *graphs: Graph) -> Path:
    """As `memsched explain --plans` writes them."""
    folder.mkdir()
    for graph in graphs:
        write_json(folder / f"{graph.name}.plan.json", plan_to_json(graph, solve(graph), embed_graph=True))
    return folder


def test_two_runs_are_drawn_in_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders of plans: a graph of both sides has two orders on the page, one of a single side has its own.

    before    forward, backward          now    forward with a larger buffer, extra
    """
    forward, backward, extra = (replace(two_hills(), name=name) for name in ("forward", "backward", "extra"))
    larger = replace(forward, buffers=(replace(forward.buffers[0], size=100), *forward.buffers[1:]))
    before, now = plans_in(tmp_path / "a", forward, backward), plans_in(tmp_path / "b", larger, extra)
    page = tmp_path / "page.html"
    assert main(["diff", str(before), str(now), "-o", str(page), "--json"]) == EXIT_DONE
    told = json.loads(capsys.readouterr().out)
    changes = {graph["name"]: graph for graph in told["graphs"]}
    assert told["format"] == "memsched-diff/1" and set(changes) == {"forward", "backward", "extra"}
    assert changes["forward"]["after"]["peak"] > changes["forward"]["before"]["peak"]
    assert changes["extra"]["before"] is None and changes["backward"]["after"] is None
    drawn = page.read_text()
    data = json.loads(re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', drawn, re.S)[0])
    parts = {part["name"]: [plan["title"] for plan in part["plans"]] for part in data["parts"]}
    assert parts == {"extra": ["now"], "forward": ["before", "now"], "backward": ["before"]}
    assert "ROSE" in drawn


def test_what_is_drawn_is_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`memsched diff <(zcat a) <(zcat b) -o page.html`: what a pipe has given is gone."""
    (plan,) = plans_in(tmp_path / "a", two_hills()).iterdir()
    pipe, page = tmp_path / "pipe", tmp_path / "page.html"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(plan.read_bytes(),), daemon=True)
    writer.start()
    assert main(["diff", str(plan), str(pipe), "-o", str(page)]) == EXIT_DONE
    writer.join(10)
    assert "+0.00%" in capsys.readouterr().out and page.exists()


def test_what_cannot_be_drawn_beside_each_other_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = plans_in(tmp_path / "a", two_hills())
    (tmp_path / "empty").mkdir()
    bare = tmp_path / "bare.json"
    write_json(bare, plan_to_json(two_hills(), solve(two_hills())))
    for other, output, message in (
        (tmp_path / "empty", "page.html", "there is no .plan.json in this folder"),
        (bare, "page.html", "the plan holds no graph"),
        (plans, "page.png", "the name must end in .html"),
    ):
        assert main(["diff", str(plans), str(other), "-o", str(tmp_path / output)]) == EXIT_BAD_INPUT
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line and not (tmp_path / output).exists()


@pytest.mark.parametrize("command", ["diff", "tree"])
def test_no_name_in_a_file_reaches_the_terminal_as_it_is(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name with an escape sequence would color, or clear, the screen of who looks at the file."""
    name = "\x1b[2Jred"
    peaks = {"format": "memsched-peaks/1", "graphs": [{"name": name, "kind": "forward", "peak": 10, "tensors": []}]}
    (tmp_path / "peaks.json").write_text(json.dumps(peaks))
    write_graph(str(tmp_path / "graph.json"), Graph(name, (Op(name),), (Buffer(name, 4, 0, (), kept=True),)))
    path = str(tmp_path / ("peaks.json" if command == "diff" else "graph.json"))
    assert main([command, path, *([path] if command == "diff" else [])]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "red" in out and "\x1b" not in out


def test_a_gate_that_plans_past_a_message_says_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "narrow:talks", "--baseline", "peaks.json", "--update"]) == EXIT_DONE
    out, err = capsys.readouterr()
    assert "forward 0" in out and "forward 1" not in out
    assert "memsched: planned past a message to a logger at" in err and "narrow.py" in err


# ---- bad input


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        (["explain", "narrow"], "does not name a function"),
        (["explain", ":step"], "does not name a function"),
        (["explain", "nowhere:step"], "cannot be imported: ModuleNotFoundError"),
        (["explain", "narrow:stride"], "has no function 'stride'"),
        (["explain", "narrow:number"], "has no function 'number'"),
        (["explain", "narrow:breaks"], "RuntimeError: no weights"),
        (["explain", "narrow:no_batch"], "not (model, batch)"),
        (["explain", "narrow:no_loss"], "returns no loss"),
        (["explain", "narrow:does_not_compile"], "the model does not compile: "),
        (["explain", "narrow:broken"], "breaks into 2 graphs"),
        (["check", "narrow:broken", "--baseline", "peaks.json", "--update"], "breaks into 2 graphs"),
        (["explain", "gone.json"], "gone.json: No such file"),
        (["explain", "bad.json"], "bad.json: not JSON"),
        (["explain", "narrow:step", "-o", "page.png"], "page.png: the name must end in .html"),
        (["explain", "narrow:step", "-o", "nowhere/page.html"], "its folder does not exist"),
        (["show", "bad.json", "-o", "page.html"], "bad.json: not JSON"),
        (["explain", "narrow:step", "--device", "banana"], "device 'banana' is unknown"),
        (["check", "narrow:step", "--baseline", "missing.json"], "missing.json: No such file"),
        (["check", "narrow:step", "--baseline", "bad.json"], "bad.json: not JSON"),
        (["diff", "bad.json", "bad.json"], "bad.json: not JSON"),
        (["diff", "other.json", "other.json"], "format: expected memsched-peaks/1"),
    ],
)
def test_bad_input_is_one_line_and_2(
    project: Path, argv: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "bad.json").write_text("{")
    (project / "other.json").write_text("[]")
    assert main(argv) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert fault in err and err.count("\n") == 1 and err.startswith("memsched: ")


def test_a_bad_tolerance_is_refused_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", "a:b", "--baseline", "p", "--tolerance", "24 bananas"])
    assert caught.value.code == EXIT_BAD_INPUT
    assert "'24 bananas' is not a tolerance" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("12", 12), ("1KiB", 1024), ("1 kB", 1000), ("1.2GiB", 1288490188), ("24 MiB", 24 << 20), (7, 7)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["24 bananas", "", "GiB", "-1", "1e9", "nan", "9999PiB", "1.2.3GiB", True, None, 1.5])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["", "%", "-1%", "nan", "inf", "one"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(InputError, match="is not a tolerance"):
        parse_share(text)
    assert parse_share("1%") == parse_share("0.01") == 0.01


def test_corrupt_baselines_are_refused_with_one_line(tmp_path: Path) -> None:
    """Every field replaced by values of wrong types, truncated files, bytes flipped: FormatError, or still peaks."""
    tensor = PeakTensor(8, "float32[2]", "aten.exp.default", "first", "model.py:3 in forward: x.exp()")
    path = tmp_path / "peaks.json"
    write_peaks(path, peaks(8, tensor))
    good = path.read_bytes()
    generator = random.Random(6)
    refused = 0
    candidates = [good[:length] for length in range(0, len(good) - 2, 7)]
    candidates += [gzip.compress(good)[:40], b"\xff\xfe", b"null", b"[]", b"3"]
    for _ in range(200):
        at = generator.randrange(len(good))
        candidates.append(good[:at] + bytes([generator.randrange(256)]) + good[at + 1 :])
    for value in (None, "x", -1, 1.5, [], {}, [3], True):
        for key in ("graphs", "torch"):
            candidates.append(json.dumps(json.loads(good) | {key: value}).encode())
        for key in ("name", "peak", "tensors"):
            data = json.loads(good)
            data["graphs"][0][key] = value
            candidates.append(json.dumps(data).encode())
    for content in candidates:
        path.write_bytes(content)
        try:
            assert isinstance(read_peaks(path), Peaks)
        except FormatError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 60


# ---- the fixture


def test_assert_peak(project: Path, assert_peak: Callable[..., int]) -> None:
    import narrow  # type: ignore[import-not-found]

    peak = assert_peak(narrow.step, at_most="1MiB")
    assert assert_peak(narrow.step, at_most=peak) == peak
    with pytest.raises(pytest.fail.Exception, match=r"(?s)1 are allowed.*live at the peak.*narrow.py:11"):
        assert_peak(narrow.step, at_most="1")
    with pytest.raises(InputError, match="'24 bananas' is not a size"):
        assert_peak(narrow.step, at_most="24 bananas")

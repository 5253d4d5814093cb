"""`memsched show`: every format tells the peak of the memory model."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memsched.cli import EXIT_BAD_INPUT, EXIT_DONE, main
from memsched.core.graph import Graph, Op
from memsched.core.peak import live_buffers, peak_bytes
from memsched.core.result import (
    Certificate,
    CutCertificate,
    EndpointCertificate,
    StatementCertificate,
    TreeCertificate,
)
from memsched.core.sizes import format_bytes
from memsched.files.graph_file import write_graph
from memsched.files.json_file import write_json
from memsched.files.plan_file import plan_to_json, read_plan
from memsched.records.fusion import RefusedFusion
from memsched.render.perfetto import render_perfetto
from memsched.render.show import FORMATS
from memsched.render.snapshot import render_snapshot, snapshot_of
from memsched.render.text.table import COLUMNS, render_csv
from memsched.render.text.words import certificate_words, clipped, gap_words
from memsched.render.timeline import Lifetime, timeline_of
from memsched.search.orders.inductor import dfs_order
from memsched.search.solver import solve
from tests.core.test_graph import diamond
from tests.oracle import random_graphs
from tests.render.test_page import Page, origins_of, with_workspaces
from tests.search.test_solver import two_hills


def some_graphs(count: int, seed: int) -> list[Graph]:
    return [with_workspaces(graph) for graph in random_graphs(count, seed=seed, largest=20)]


# ---- lifetimes


def test_lifetimes_as_drawn() -> None:
    timeline = timeline_of(diamond(), (0, 1, 2, 3))
    assert timeline.lifetimes == (Lifetime(0, 2), Lifetime(1, 3), Lifetime(2, 3), Lifetime(3, 4))
    assert timeline.profile.peak_step == 2
    assert timeline.live_at(2) == (0, 2, 1)  # X, Z, Y: the largest first


def test_lifetimes_agree_with_the_memory_model() -> None:
    for graph in some_graphs(200, seed=71):
        timeline = timeline_of(graph, graph.topological_order)
        for step, op in enumerate(timeline.order):
            live = timeline.live_at(step)
            assert sorted(live) == list(live_buffers(graph, timeline.order, step))
            total = sum(graph.buffers[index].size for index in live) + graph.ops[op].workspace
            assert total == timeline.profile.step_peaks[step]
        freed = [index for step in timeline.freed_after() for index in step]
        assert len(freed) == len(set(freed)) == sum(not buffer.kept for buffer in graph.buffers)


# ---- the snapshot


def replayed_peak(snapshot: dict[str, Any]) -> tuple[int, int]:
    """Peak and final bytes of the events, with blocks checked to be freed once, with the size that was allocated."""
    live: dict[int, int] = {}
    peak = total = 0
    for event in snapshot["device_traces"][0]:
        if event["action"] == "alloc":
            assert event["addr"] not in live
            live[event["addr"]] = event["size"]
            total += event["size"]
        elif event["action"] == "free_completed":
            assert live.pop(event["addr"]) == event["size"]
            total -= event["size"]
        peak = max(peak, total)
    blocks = [block for segment in snapshot["segments"] for block in segment["blocks"]]
    assert live == {block["address"]: block["size"] for block in blocks}
    return peak, total


def plain_types(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain_types(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(plain_types, value))
    return value is None or type(value) in (str, int, float, bool)


def test_snapshot_has_exactly_the_modelled_peak() -> None:
    for graph in some_graphs(200, seed=72):
        for order in (graph.topological_order, dfs_order(graph)):
            snapshot = pickle.loads(render_snapshot(timeline_of(graph, order)))
            assert replayed_peak(snapshot) == (peak_bytes(graph, order), graph.end_bytes)
            assert plain_types(snapshot)


def test_snapshot_blocks_tile_their_segment() -> None:
    for graph in some_graphs(50, seed=73):
        for segment in snapshot_of(timeline_of(graph, graph.topological_order))["segments"]:
            address = segment["address"]
            for block in segment["blocks"]:
                assert block["address"] == address
                address += block["size"]
            assert address == segment["address"] + segment["total_size"]


def test_snapshot_frames_name_buffer_op_and_line() -> None:
    graph = diamond()
    events = snapshot_of(timeline_of(graph, (0, 1, 2, 3), "", origins_of(graph)))["device_traces"][0]
    name, source = events[0]["frames"]
    assert name["name"] == "X float32[2, 3] from a aten.gelu blocks.0"
    assert source == {"name": "forward", "filename": "model/layers.py", "line": 41}


def test_snapshot_pickle_is_protocol_4() -> None:
    assert render_snapshot(timeline_of(diamond(), (0, 1, 2, 3)))[:2] == b"\x80\x04"


def test_memory_viz_of_torch_accepts_the_snapshot() -> None:
    """Its text views print every event and the bytes that are left; its plots embed the snapshot."""
    viz = pytest.importorskip("torch.cuda._memory_viz")
    for graph in (diamond(), two_hills(), *some_graphs(20, seed=74)):
        timeline = timeline_of(graph, graph.topological_order, "", origins_of(graph))
        snapshot = pickle.loads(render_snapshot(timeline))
        text = viz.trace(snapshot)
        assert text.count("\ndel ") == sum(e["action"] == "free_requested" for e in snapshot["device_traces"][0])
        assert f"total_allocated: {viz.Bytes(graph.end_bytes)}" in viz.segsum(snapshot)
        assert "Active Memory Timeline" in viz.trace_plot(snapshot)
        assert "Allocator State History" in viz.segment_plot(snapshot)


# ---- Perfetto, CSV


def test_perfetto_counter_reaches_the_peak_and_slices_do_not_overlap() -> None:
    for graph in some_graphs(50, seed=75):
        timelines = [timeline_of(graph, order, str(at)) for at, order in enumerate((graph.topological_order,) * 2)]
        events = json.loads(render_perfetto(timelines))["traceEvents"]
        for process, timeline in enumerate(timelines, 1):
            mine = [event for event in events if event["pid"] == process]
            assert max(event["args"]["bytes"] for event in mine if event["ph"] == "C") == timeline.profile.peak
            slices = [event for event in mine if event["ph"] == "X"]
            assert [event["name"] for event in slices] == [graph.ops[op].name for op in timeline.order]
            ends = [event["ts"] + event["dur"] for event in slices]
            assert all(end <= after["ts"] for end, after in zip(ends, slices[1:], strict=False))


def test_csv_rows_follow_the_memory_model() -> None:
    for graph in some_graphs(50, seed=76):
        timeline = timeline_of(graph, graph.topological_order, "", origins_of(graph))
        rows = list(csv.DictReader(io.StringIO(render_csv(timeline))))
        level = graph.start_bytes
        for row, op, peak in zip(rows, timeline.order, timeline.profile.step_peaks, strict=True):
            assert tuple(row) == COLUMNS and row["op"] == graph.ops[op].name
            assert level + int(row["allocates"]) + int(row["workspace"]) == int(row["live_while_running"]) == peak
            level += int(row["allocates"]) - int(row["frees"])
            assert level == int(row["live_after"])


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@sum", "\tx"])
def test_csv_cells_are_no_formulas(name: str) -> None:
    text = render_csv(timeline_of(Graph("g", (Op(name),)), (0,)))
    assert list(csv.reader(io.StringIO(text)))[1][1] == "'" + name


# ---- words


def test_bytes_in_words() -> None:
    assert [format_bytes(count) for count in (0, 1023, 1024, 3 * 2**19, 2**62)] == [
        "0 bytes",
        "1023 bytes",
        "1.00 KiB",
        "1.50 MiB",
        "4.00 EiB",
    ]


def test_clipped_keeps_both_ends() -> None:
    assert clipped("abc", 3) == "abc"
    assert clipped("a" * 50 + "b" * 50, 30) == "a" * 20 + "…" + "b" * 9


def test_certificates_in_words() -> None:
    graph = two_hills()
    cases: list[tuple[Certificate | None, str]] = [
        (None, "Nothing was proved"),
        (EndpointCertificate(graph.start_bytes), "starts with all its inputs live"),
        (EndpointCertificate(graph.end_bytes + 1), "ends with all its outputs live"),
        (CutCertificate(9, 0, (), (), ()), f"No order can run {graph.ops[0].name} below 9 bytes"),
        (TreeCertificate(7, None), "series-parallel"),
        (StatementCertificate(7, "ilp", "HiGHS said so."), "ilp proved"),
    ]
    for certificate, words in cases:
        assert words in certificate_words(graph, certificate, True)
    assert "followed this proof again" in certificate_words(graph, EndpointCertificate(1), True)
    assert "claim that was not followed" in certificate_words(graph, EndpointCertificate(1), False)
    assert "confirm" in certificate_words(graph, StatementCertificate(7, "ilp", ""), True)
    assert gap_words(11, 11).endswith("needs less.")
    assert "10.00%" in gap_words(11, 10)
    assert "not known" in gap_words(11, None) and "not known" in gap_words(11, 0)


# ---- the command


@pytest.fixture
def graph_file(tmp_path: Path) -> Path:
    path = tmp_path / "hills.json"
    write_graph(path, two_hills())
    return path


@pytest.fixture
def plan_file(tmp_path: Path, graph_file: Path) -> Path:
    path = tmp_path / "hills.plan"
    assert main(["solve", str(graph_file), "-o", str(path)]) == EXIT_DONE
    return path


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_show_needs_the_plan_only(plan_file: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    assert main(["show", str(plan_file), "-o", str(out)]) == EXIT_DONE
    first = out.read_bytes()
    assert main(["show", str(plan_file), "-o", str(out)]) == EXIT_DONE
    assert out.read_bytes() == first, "the same plan gives the same bytes"


def test_refused_fusions_travel_with_the_plan(tmp_path: Path) -> None:
    """From the plan file to the page: names of both kernels, bytes above the plan, bytes that need not be moved."""
    graph, path, out = two_hills(), tmp_path / "r.plan", tmp_path / "r.html"
    refusals = (RefusedFusion(("op3", "op4"), ("op9",), 3 * 2**20, 2**10),)
    write_json(path, plan_to_json(graph, solve(graph), embed_graph=True, refusals=refusals))
    assert read_plan(path).embedded_refusals() == refusals
    assert main(["show", str(path), "-o", str(out)]) == EXIT_DONE
    text = out.read_text()
    for words in ("Fusions refused: 1", "<td>op3, op4</td><td>op9</td>", "3.00 MiB", "1.00 KiB"):
        assert words in text


def test_show_orders_a_graph(graph_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "graph.html"
    assert main(["show", str(graph_file), "-o", str(out)]) == EXIT_DONE
    assert "memsched followed this proof again" in out.read_text()


def test_show_reads_what_inductor_writes(tmp_path: Path) -> None:
    """`reorder_for_peak_memory_debug`: a writes 4 bytes, b reads them and writes 2 that are the output."""
    buffer = {"is_input": False, "unmet_deps": []}
    dump = {
        "nodes": [{"name": "a", "buffer_names": ["A"]}, {"name": "b", "buffer_names": ["B"]}],
        "buffers": [
            buffer | {"name": "A", "size_alloc": 4, "size_free": 4, "deps": [], "is_output": False},
            buffer | {"name": "B", "size_alloc": 2, "size_free": 2, "deps": ["A"], "is_output": True},
        ],
    }
    path, out = tmp_path / "dump.json", tmp_path / "dump.html"
    write_json(path, dump)
    assert main(["show", str(path), "-o", str(out)]) == EXIT_DONE
    assert Page(out.read_text()).data["parts"][0]["plans"][-1]["peak"] == 6
    assert main(["explain", str(path)]) == EXIT_DONE


def test_a_recorded_snapshot_lies_over_the_plan(plan_file: Path, tmp_path: Path) -> None:
    """Our own predicted snapshot, read back as if it had been recorded, is the plan again: the same peak."""
    snapshot, out = tmp_path / "recorded.pickle", tmp_path / "out.html"
    assert main(["show", str(plan_file), "-o", str(snapshot)]) == EXIT_DONE
    assert main(["show", str(plan_file), "--measured", str(snapshot), "-o", str(out)]) == EXIT_DONE
    measured = Page(out.read_text()).data["parts"][0]["plans"][-1]["measured"]
    assert measured["peak"] == read_plan(plan_file).peak == 11
    assert measured["at"] == sorted(measured["at"]) and "recorded events" in out.read_text()


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("evil",))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not a snapshot"),
        (pickle.dumps(3), "not a snapshot"),
        (pickle.dumps({"device_traces": [[]]}), "no allocation was recorded"),
        (pickle.dumps({"device_traces": [[{"action": "alloc", "size": "big"}]]}), "not a snapshot"),
        (pickle.dumps({"device_traces": [Evil()]}), "only plain types"),
    ],
)
def test_bad_snapshots_are_refused_in_one_line(
    plan_file: Path, tmp_path: Path, content: bytes, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "bad.pickle", tmp_path / "out.html"
    path.write_bytes(content)
    capsys.readouterr()
    assert main(["show", str(plan_file), "--measured", str(path), "-o", str(out)]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert fault in err and "bad.pickle" in err and err.count("\n") == 1 and not out.exists()
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("against", "titles"),
    [
        ("none", ["memsched"]),
        ("incoming", ["stock (incoming)", "memsched"]),
        ("dfs", ["stock (dfs)", "memsched"]),
        ("stock", ["stock (", "memsched"]),
    ],
)
def test_show_against(plan_file: Path, tmp_path: Path, against: str, titles: list[str]) -> None:
    out = tmp_path / "out.html"
    assert main(["show", str(plan_file), "--against", against, "-o", str(out)]) == EXIT_DONE
    plans = Page(out.read_text()).data["parts"][0]["plans"]
    assert [plan["title"].startswith(title) for plan, title in zip(plans, titles, strict=True)] == [True] * len(titles)


def test_a_plan_without_its_graph_needs_graph(
    graph_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, plan, out = two_hills(), tmp_path / "bare.plan", str(tmp_path / "out.html")
    write_json(plan, plan_to_json(graph, solve(graph)))
    assert main(["show", str(plan), "-o", out]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert "bare.plan" in err and "--graph" in err and err.count("\n") == 1
    assert not Path(out).exists()
    assert main(["show", str(plan), "--graph", str(graph_file), "-o", out]) == EXIT_DONE


def test_origins_travel_with_the_plan(tmp_path: Path) -> None:
    graph, path, out = two_hills(), tmp_path / "o.plan", tmp_path / "o.html"
    write_json(path, plan_to_json(graph, solve(graph), embed_graph=True, origins=origins_of(graph)))
    assert read_plan(path).embedded_origins() == origins_of(graph)
    assert read_plan(path).embedded_graph() == graph
    assert main(["show", str(path), "-o", str(out)]) == EXIT_DONE
    assert "model/layers.py:41 in forward: y = F.gelu(x)" in Page(out.read_text()).data["strings"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: plan.update(graph=7), "graph: expected an object"),
        (lambda plan: plan["graph"].update(ops=[]), "no op"),
        (lambda plan: plan["graph"]["buffers"][0].update(size=-1), "buffer"),
        (lambda plan: plan["graph"]["buffers"][0].update(size=123), "another graph"),
        (lambda plan: plan.update(order=plan["order"][:-1]), "order"),
        (lambda plan: plan.update(order=plan["order"][::-1]), "order"),
        (lambda plan: plan.update(peak=plan["peak"] - 1), "peak"),
        (lambda plan: plan.update(origins=[1]), "origins: expected an object"),
        (lambda plan: plan.update(origins={"X": {"shape": "big"}}), "shape: expected a list"),
    ],
)
def test_bad_plans_are_refused_in_one_line(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Any], object], words: str
) -> None:
    plan = json.loads(plan_file.read_text())
    change(plan)
    write_json(plan_file, plan)
    out = tmp_path / "out.html"
    capsys.readouterr()
    assert main(["show", str(plan_file), "-o", str(out)]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert words in err and str(plan_file) in err and err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("name", ["out", "out.png", "out.html.gz", ".html/x", "missing/out.html"])
def test_bad_outputs_are_refused(
    plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    capsys.readouterr()
    assert main(["show", str(plan_file), "-o", str(tmp_path / name)]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err.count("\n") == 1


def test_a_failed_write_leaves_the_old_file(plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.html"
    out.write_bytes(b"old")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "disk full", "out.html")))
    assert main(["show", str(plan_file), "-o", str(out)]) == EXIT_BAD_INPUT
    assert out.read_bytes() == b"old"


def test_show_runs_without_torch(plan_file: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from memsched.cli import main; sys.exit(main(sys.argv[1:]))"
    for suffix in FORMATS:
        arguments = ["show", str(plan_file), "-o", str(tmp_path / f"out{suffix}")]
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)


def test_captured_graph_in_every_format(tmp_path: Path) -> None:
    """The graph of pytorch#193193: the peak that the snapshot gives is the modelled one of the plan."""
    folder = Path(os.environ.get("MEMSCHED_INSTANCES", "bench/instances"))
    path = folder / "two_traversal_ac.bwd.postfusion.json.gz"
    if not path.exists():
        pytest.skip("no captured instances")
    plan = tmp_path / "plan.json"
    assert main(["solve", str(path), "--method", "stock", "-o", str(plan)]) == EXIT_DONE
    for suffix in FORMATS:
        assert main(["show", str(plan), "-o", str(tmp_path / f"out{suffix}")]) == EXIT_DONE
    snapshot = pickle.loads((tmp_path / "out.pickle").read_bytes())
    assert replayed_peak(snapshot)[0] == read_plan(plan).peak

"""`memsched show`: every format tells the peak of the memory model, and nothing in a graph breaks out of the page."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from memsched.cli import EXIT_BAD_INPUT, EXIT_DONE, main
from memsched.core.explanation import MeasuredCurve
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.graphio import plan_to_json, read_plan, write_graph, write_json
from memsched.core.origin import Origin, RefusedFusion
from memsched.core.peak import live_buffers, memory_profile, peak_bytes
from memsched.core.result import (
    Certificate,
    CutCertificate,
    EndpointCertificate,
    StatementCertificate,
    TreeCertificate,
)
from memsched.report import html
from memsched.report.exhibit import Exhibit
from memsched.report.html import render_html
from memsched.report.perfetto import render_perfetto
from memsched.report.show import FORMATS
from memsched.report.snapshot import render_snapshot, snapshot_of
from memsched.report.table import COLUMNS, render_csv
from memsched.report.timeline import Lifetime, timeline_of
from memsched.report.words import certificate_words, clipped, format_bytes, gap_words
from memsched.search.heuristics import dfs_order
from memsched.search.solver import solve
from tests.oracle import random_graphs
from tests.test_core import diamond
from tests.test_solver import two_hills

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>&amp;\"'\u2028\n\x1b[31m"


def with_workspaces(graph: Graph) -> Graph:
    """Every third op needs 5 bytes of workspace."""
    ops = tuple(replace(op, workspace=5 * (index % 3 == 0)) for index, op in enumerate(graph.ops))
    return replace(graph, ops=ops)


def some_graphs(count: int, seed: int) -> list[Graph]:
    return [with_workspaces(graph) for graph in random_graphs(count, seed=seed, largest=20)]


def origins_of(graph: Graph) -> dict[str, Origin]:
    source = "model/layers.py:41 in forward: y = F.gelu(x)"
    return {buffer.name: Origin("float32", (2, 3), "aten.gelu", source, "blocks.0") for buffer in graph.buffers}


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


# ---- the page


class Page(HTMLParser):
    """The tags of a page, its text by element, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.loads += [value or "" for key, value in attrs if key in ("src", "href", "data", "style", "action")]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def page_of(graph: Graph, **more: Any) -> str:
    timelines = [
        timeline_of(graph, graph.topological_order, "stock", origins_of(graph)),
        timeline_of(graph, dfs_order(graph), "memsched", origins_of(graph)),
    ]
    return render_html([Exhibit(timelines, **more)])


def test_page_holds_both_plans_and_the_bound() -> None:
    graph = two_hills()
    text = page_of(graph, lower_bound=11, certificate=EndpointCertificate(11), proved=True)
    data = Page(text).data
    (part,) = data["parts"]
    plans = part["plans"]
    assert [plan["title"] for plan in plans] == ["stock", "memsched"]
    for plan, order in zip(plans, (graph.topological_order, dfs_order(graph)), strict=True):
        profile = memory_profile(graph, order)
        assert (plan["order"], plan["peaks"], plan["levels"]) == (
            list(order),
            list(profile.step_peaks),
            list(profile.levels),
        )
        assert (plan["peak"], plan["peakStep"]) == (profile.peak, profile.peak_step)
    assert part["bound"] == 11
    assert data["strings"][data["graphs"][0]["buffers"]["source"][0]] == "model/layers.py:41 in forward: y = F.gelu(x)"
    assert "memsched followed this proof again" in text


def test_page_needs_no_network() -> None:
    text = page_of(two_hills())
    assert Page(text).loads == []
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|//cdn|@import|url\(", text)


def test_page_policy_allows_its_own_script_and_style_only() -> None:
    text = page_of(two_hills())
    for tag, body in (("script", Page(text).scripts[1]), ("style", text.split("<style>")[1].split("</style>")[0])):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in text
    assert "unsafe" not in text


def hostile_graph() -> Graph:
    """The diamond, with every text in it hostile."""
    graph = diamond()
    ops = tuple(replace(op, name=f"{HOSTILE}{op.name}", kind=HOSTILE) for op in graph.ops)
    buffers = tuple(replace(buffer, name=f"{HOSTILE}{buffer.name}") for buffer in graph.buffers)
    return Graph(HOSTILE, ops, buffers, torch=HOSTILE, device=HOSTILE, stage=HOSTILE)


def hostile_page() -> str:
    graph = hostile_graph()
    origins = {buffer.name: Origin(HOSTILE, (1,), HOSTILE, HOSTILE, HOSTILE) for buffer in graph.buffers}
    timeline = timeline_of(graph, (0, 1, 2, 3), HOSTILE, origins)
    proof = StatementCertificate(4, HOSTILE, HOSTILE)
    refusals = [RefusedFusion((HOSTILE,), (HOSTILE,), 3)] * 60
    return render_html([Exhibit([timeline, timeline], 4, proof, refusals=refusals)])


def test_hostile_names_cannot_break_out_of_the_page() -> None:
    hostile, harmless = Page(hostile_page()), Page(page_of(diamond(), refusals=[]))
    assert hostile.tags.count("script") == harmless.tags.count("script") == 2
    assert "img" not in hostile.tags and hostile.loads == []
    assert hostile.scripts[1] == harmless.scripts[1]
    assert HOSTILE.split("<")[1][:5] in hostile.data["graphs"][0]["ops"]["name"][0]  # the name is there, as data
    assert not re.search("[\x00-\x08\x0b-\x1f\u2028\u2029]", hostile_page().replace("\n", ""))


def test_lone_surrogates_can_be_written() -> None:
    graph = Graph("\ud800", (Op("\udfff"),), (Buffer("\ud801", 1, 0, (), True),))
    for write in FORMATS.values():
        assert write(Exhibit([timeline_of(graph, (0,), "\ud802")]))


def long_graph(count: int) -> Graph:
    """A chain whose first half is read again in reverse, as by a backward pass; names as long as those of fused ops."""
    ops = tuple(Op("_".join(f"op{index + part}" for part in range(index % 40 + 1)), "Fused") for index in range(count))
    buffers = tuple(
        Buffer(f"buf{index}", 2**20 + index, index, tuple(sorted({index + 1, max(index + 1, count - 1 - index)})))
        for index in range(count - 1)
    )
    return Graph("long", ops, buffers)


def test_page_of_5000_ops_is_small_and_quick() -> None:
    graph = long_graph(5000)
    origins = {
        buffer.name: Origin("bfloat16", (4, 128, at), "aten.mm", f"m.py:{at} in f: " + "x" * 80, f"model.layers.{at}")
        for at, buffer in enumerate(graph.buffers)
    }
    begin = time.process_time()
    page = render_html([Exhibit([timeline_of(graph, graph.topological_order, title, origins) for title in ("a", "b")])])
    assert len(page.encode()) <= 5_000_000
    assert time.process_time() - begin < 5


# ---- the page in a browser


def browse(tmp_path: Path, page: str, *wish: str) -> str:
    """The document after its script has run, as HTML; wish: what to ask of Chromium instead, or besides."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --window-size=1400,900"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path}/profile"]
    command += wish or ("--virtual-time-budget=3000", "--dump-dom")
    finished = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return finished.stdout


DRIVER = """
const errors = [];
addEventListener("error", event => errors.push(event.message));
const canvas = document.querySelectorAll("canvas")[1], box = canvas.getBoundingClientRect();
const press = key => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
const said = [], say = () => said.push(byId("step-words").textContent);
say();
press("Home"); say(); press("ArrowRight"); say(); press("ArrowDown"); say(); press("p"); say();
press("+"); press("+"); said.push((view.to - view.from).toFixed(2)); press("0");
canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -400, clientX: box.left + 300, cancelable: true }));
said.push(String(view.to - view.from < stepCount)); press("0");
charts[1].onHover(PAD.left + 2, PAD.top + charts[1].height - 2, { clientX: 100, clientY: 100 });
said.push(byId("tip").textContent);
byId("find").value = "b1"; byId("find").dispatchEvent(new Event("input")); said.push(byId("found").textContent);
const pen = canvas.getContext("2d");
charts.forEach(chart => chart.draw());
said.push("drawn");
const lit = pen.getImageData(0, 0, canvas.width, canvas.height).data.some(value => value > 0);
said.push(String(lit));
"""

TELL = """
const result = document.createElement("pre");
result.id = "result";
result.textContent = JSON.stringify({ said, errors, title: document.title });
document.body.append(result);
"""


def driven(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], str],
    driver: str = DRIVER,
    real_time: bool = False,
) -> dict[str, Any]:
    """What the page says when `driver` uses it; real_time: the browser's clock runs, else it waits for timers only."""
    monkeypatch.setattr(html, "SCRIPT", html.SCRIPT + driver + TELL)
    wish = ("--dump-dom",) if real_time else ()
    found = re.search(r'<pre id="result">(.*?)</pre>', browse(tmp_path, make(), *wish), re.DOTALL)
    assert found, "the script of the page stopped"
    result: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return result


def test_page_in_chromium_answers_keys_wheel_and_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = with_workspaces(long_graph(200))
    timelines = [timeline_of(graph, graph.topological_order, title, origins_of(graph)) for title in ("stock", "ours")]
    result = driven(tmp_path, monkeypatch, lambda: render_html([Exhibit(timelines, 2**20)]))
    assert not result["errors"]
    start, home, right, down, peak, zoomed, wheeled, tip, found, _, lit = result["said"]
    assert lit == "true"
    step = timelines[1].profile.peak_step
    assert f"step {step} of 200" in start and "this is the peak" in start
    assert "step 0 of 200" in home and "step 1 of 200" in right
    assert "Selected: buf1, 1.00 MiB" in down  # one byte larger than buf0, which is live too
    assert f"step {step} of 200" in peak
    assert (zoomed, wheeled) == ("98.00", "true")
    assert tip.startswith("buf0") and "model/layers.py:41" in tip
    assert found == "0 of 200 steps"


def test_page_in_chromium_holds_hostile_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = driven(tmp_path, monkeypatch, hostile_page)
    assert not result["errors"]
    assert result["title"].startswith("memsched: </script>")  # the text of the name, not its effect


def test_page_in_chromium_switches_graphs_and_tells_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two graphs on a page; stock's order of the second is of other fusions, with fewer ops: each has its own steps."""
    small, large, fused = diamond(), long_graph(200), long_graph(120)
    curve = MeasuredCurve((0.0, 0.5, 199.5), (0, 7 * 2**20, 3 * 2**20), "measured by hand")
    orders = [timeline_of(fused, fused.topological_order, "stock"), timeline_of(large, large.topological_order, "ours")]
    exhibits = [Exhibit([timeline_of(small, (0, 1, 2, 3), "ours")]), Exhibit(orders, measured=curve)]
    result = driven(tmp_path, monkeypatch, lambda: render_html(exhibits), SWITCHING)
    assert not result["errors"]
    start, stock_end, measured, other, hidden, highest = result["said"]
    assert f"step {orders[1].profile.peak_step} of 200" in start, "the page opens on the graph with the highest peak"
    assert "stock, step 119 of 120" in stock_end
    assert "Measured: 7.00 MiB." in measured
    assert "ours, step 2 of 4" in other and "Measured" not in other
    assert hidden == "true,false" and highest == "7"


SWITCHING = """
const errors = [];
addEventListener("error", event => errors.push(event.message));
const said = [], say = () => said.push(byId("step-words").textContent);
say();
moveTo(0, 999); say();
moveTo(1, 0); say();
byId("part").value = 0;
byId("part").dispatchEvent(new Event("change")); say();
const boxes = [...document.querySelectorAll("dl.cards")].map(box => box.parentElement.hidden);
said.push([...boxes].reverse().join(","), String(highest));
"""


PANNING = """
const errors = [], said = [];
addEventListener("error", event => errors.push(event.message));
const spent = [];
for (let move = 0; move < 30; move++) {
  const begin = performance.now();
  if (move < 10) zoom(0.7, stepCount / 3); else pan((view.to - view.from) / 10 * (move % 2 ? 1 : -3));
  charts.forEach(chart => chart.draw());
  spent.push(performance.now() - begin);
}
open(0);
spent.sort((a, b) => a - b);
said.push(String(spent[15]), String(spent[29]), String(performance.now()));
"""


def test_page_of_5000_ops_in_chromium_pans_without_visible_delay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two charts of 5,000 ops are drawn again for each move; half of 30 moves in a tenth of a second, in real time."""
    graph = long_graph(5000)
    origins = {buffer.name: Origin("bfloat16", (4, 128), "aten.mm", "m.py:1 in f: x") for buffer in graph.buffers}
    orders = [timeline_of(graph, graph.topological_order, title, origins) for title in ("stock", "ours")]
    page = render_html([Exhibit(orders, orders[0].profile.peak // 2)])
    result = driven(tmp_path, monkeypatch, lambda: render_html([Exhibit(orders)]), PANNING, real_time=True)
    assert not result["errors"]
    median, worst, loaded = map(float, result["said"])
    assert 0 < median <= 100 and worst <= 1000 and loaded <= 10_000, result["said"]
    picture = tmp_path / "page.png"
    browse(tmp_path, page, f"--screenshot={picture}")
    image = pytest.importorskip("matplotlib.image").imread(picture)
    colours = {tuple(pixel) for pixel in image[::7, ::7].reshape(-1, image.shape[2]).tolist()}
    assert image.shape[:2] == (900, 1400) and len(colours) > 20, "the chart is drawn"


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


def test_roles_are_told(tmp_path: Path) -> None:
    """What keeps a buffer is on the page, with and without knowledge of where it comes from."""
    graph = diamond()
    roles = Page(page_of(graph)).data
    told = [roles["strings"][index] for index in roles["graphs"][0]["buffers"]["role"]]
    assert told == ["graph output" if buffer.kept else "" for buffer in graph.buffers] and "graph output" in told
    origins = {buffer.name: Origin(role="saved for backward") for buffer in graph.buffers}
    page = Page(render_html([Exhibit([timeline_of(graph, (0, 1, 2, 3), "", origins)])])).data
    assert "saved for backward" in page["strings"]


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

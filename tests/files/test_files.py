"""Files: what is written comes back, and 500 corrupted files are refused in one line that names file and field."""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memsched.cli import EXIT_BAD_INPUT, main
from memsched.core.graph import Graph
from memsched.core.peak import memory_profile, peak_bytes
from memsched.files.fields import FormatError
from memsched.files.graph_file import graph_from_json, graph_to_json, read_graph, write_graph
from memsched.files.inductor_dump import graph_from_inductor_json
from memsched.files.json_file import atomic_write, read_json, write_json
from memsched.files.plan_file import plan_to_json, read_plan
from memsched.search.solver import solve
from tests.oracle import random_graph, random_graphs

Json = dict[str, Any]
Corruption = Callable[[Json, random.Random], Json]


# ---- what is written comes back


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_graphs_come_back(tmp_path: Path, suffix: str) -> None:
    for graph in random_graphs(50, seed=51):
        path = tmp_path / f"graph{suffix}"
        write_graph(path, graph)
        assert read_graph(path) == graph
        assert read_graph(path).digest == graph.digest


def test_plans_come_back(tmp_path: Path) -> None:
    for graph in random_graphs(50, seed=52):
        schedule = solve(graph)
        write_json(tmp_path / "plan.json", plan_to_json(graph, schedule))
        plan = read_plan(tmp_path / "plan.json")
        assert plan.order == schedule.order
        assert (plan.peak, plan.lower_bound) == (schedule.peak, schedule.lower_bound)
        assert plan.graph_digest == graph.digest


def test_same_graph_same_bytes(tmp_path: Path) -> None:
    graph = next(random_graphs(1, seed=53))
    write_graph(tmp_path / "a.json.gz", graph)
    first = (tmp_path / "a.json.gz").read_bytes()
    time.sleep(1.1)  # a time stamp in the gzip header would differ
    write_graph(tmp_path / "a.json.gz", graph)
    assert (tmp_path / "a.json.gz").read_bytes() == first


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    atomic_write(path, b"old")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_keys_are_ignored() -> None:
    data = graph_to_json(next(random_graphs(1, seed=54)))
    data["future"] = {"anything": [1, 2.5]}
    data["ops"][0]["color"] = "blue"
    assert graph_from_json(data) == graph_from_json(graph_to_json(graph_from_json(data)))


# ---- Inductor's own dump


def buffer(name: str, alloc: int, free: int, deps: tuple[str, ...] = (), **flags: bool) -> Json:
    row: Json = {"name": name, "size_alloc": alloc, "size_free": free, "deps": list(deps)}
    return row | {"is_input": flags.get("is_input", False), "is_output": flags.get("is_output", False)}


def inductor_dump() -> Json:
    """primal ──> op0 ──buf0 (12, for two outputs)──> op1 ──buf1 (8)──> op3 ──out──>
    └──> op2 ──buf2 (4)──> op3
    """
    return {
        "nodes": [{"name": f"op{op}", "buffer_names": [f"buf{op}"]} for op in range(4)],
        "buffers": [
            buffer("primal", 16, 16, is_input=True),
            buffer("buf0", 12, 0, ("primal", "weight")),
            buffer("buf1", 0, 8, ("buf0",)),
            buffer("buf2", 0, 4, ("buf0",)),
            buffer("buf3", 2, 2, ("buf1", "buf2"), is_output=True),
        ],
    }


def test_inductor_dump_with_a_kernel_of_two_outputs() -> None:
    """Levels as Inductor counts them: 16 + 12 at op0, 12 after it, 12 until op3 has freed both pieces, 2 at the end."""
    graph = graph_from_inductor_json(inductor_dump(), "dump")
    profile = memory_profile(graph, [0, 1, 2, 3])
    assert profile.start == 16
    assert profile.step_peaks == (28, 12, 12, 14)
    assert profile.levels == (12, 12, 12, 2)


def test_inductor_piece_that_nobody_reads_dies_at_its_own_step() -> None:
    dump = inductor_dump()
    dump["buffers"][4]["deps"] = ["buf1"]
    graph = graph_from_inductor_json(dump, "dump")
    assert memory_profile(graph, [0, 1, 2, 3]).levels == (12, 12, 8, 2)


def test_inductor_dump_is_recognised_by_its_fields(tmp_path: Path) -> None:
    write_json(tmp_path / "dump.json", inductor_dump())
    assert len(read_graph(tmp_path / "dump.json")) == 4


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda dump: dump["buffers"][2].update(size_free=9), "size_free"),
        (lambda dump: dump["buffers"][1].update(size_alloc=-1), "size_alloc"),
        (lambda dump: dump["buffers"][1].update(name="elsewhere"), "no node writes 'elsewhere'"),
        (lambda dump: dump["buffers"][1].update(deps="primal"), "deps"),
        (lambda dump: dump["nodes"][1].update(name=3), "name"),
        (lambda dump: dump["nodes"].clear(), "no node writes"),
    ],
)
def test_inductor_dump_with_a_fault(tmp_path: Path, change: Callable[[Json], object], fault: str) -> None:
    dump = inductor_dump()
    change(dump)
    write_json(tmp_path / "dump.json", dump)
    with pytest.raises(FormatError, match=fault):
        read_graph(tmp_path / "dump.json")


# ---- 500 corrupted files


def small_graphs() -> list[Json]:
    rng = random.Random(55)
    kinds = ("in_tree", "two_terminal", "general", "vertex_series_parallel")
    return [graph_to_json(random_graph(rng, kind, 8, shared=True)) for kind in kinds]


def a_buffer(data: Json, rng: random.Random) -> Json:
    chosen: Json = rng.choice(data["buffers"])
    return chosen


def set_size(*values: object) -> Corruption:
    def corrupt(data: Json, rng: random.Random) -> Json:
        a_buffer(data, rng)["size"] = rng.choice(values)
        return data

    return corrupt


def replace_field(data: Json, rng: random.Random) -> Json:
    key = rng.choice(["ops", "buffers", "order_edges", "stock_peaks", "name", "format"])
    data[key] = rng.choice([None, 7, "text", [3], [[1]], [None], {"a": None}, [{"name": 5}], 1.5, True])
    if (key == "name" and isinstance(data[key], str)) or (key == "order_edges" and data[key] is None):
        data[key] = 7
    return data


def drop_field(data: Json, rng: random.Random) -> Json:
    where, keys = rng.choice(
        [
            (data, ["format", "ops", "buffers"]),
            (a_buffer(data, rng), ["name", "size", "producer"]),
            (data["ops"][0], ["name"]),
        ]
    )
    del where[rng.choice(keys)]
    return data


def unknown_index(data: Json, rng: random.Random) -> Json:
    wrong = rng.choice([-1, len(data["ops"]), 10**9, 2**63])
    match rng.randrange(3):
        case 0:
            a_buffer(data, rng)["consumers"] = [wrong]
        case 1:
            a_buffer(data, rng)["producer"] = wrong
        case _:
            data["order_edges"] = [[0, wrong]]
    return data


def wrong_index_type(data: Json, rng: random.Random) -> Json:
    wrong = rng.choice(["0", 1.0, True, [1], {}])
    if rng.random() < 0.5:
        a_buffer(data, rng)["consumers"] = [wrong]
    else:
        a_buffer(data, rng)["producer"] = wrong
    return data


def cycle(data: Json, rng: random.Random) -> Json:
    first, second = rng.sample(range(len(data["ops"])), 2)
    data["order_edges"] = [*data["order_edges"], [first, second], [second, first]]
    return data


def self_edge(data: Json, rng: random.Random) -> Json:
    op = rng.randrange(len(data["ops"]))
    if rng.random() < 0.5:
        data["order_edges"].append([op, op])
    else:
        a_buffer(data, rng).update(producer=op, consumers=[op])
    return data


def duplicate_name(data: Json, rng: random.Random) -> Json:
    rows = data[rng.choice(["ops", "buffers"])]
    first, second = rng.sample(range(len(rows)), 2)
    rows[first]["name"] = rows[second]["name"]
    return data


def wrong_format(data: Json, rng: random.Random) -> Json:
    data["format"] = rng.choice(
        ["memsched-graph/2", "memsched-plan/1", "", "x" * 10_000, 1, None, ["memsched-graph/1"]]
    )
    return data


def orphan(data: Json, rng: random.Random) -> Json:
    a_buffer(data, rng).update(producer=None, consumers=[])
    return data


def no_ops(data: Json, rng: random.Random) -> Json:
    return data | {"ops": [], "buffers": [], "order_edges": []}


def bad_edge(data: Json, rng: random.Random) -> Json:
    data["order_edges"] = [rng.choice([[0], [0, 1, 2], 3, None, {}, "01", [0, "1"], [0.5, 1]])]
    return data


def sums_above_the_limit(data: Json, rng: random.Random) -> Json:
    for row in data["buffers"][:2]:
        row["size"] = 2**61 + 1
    return data


CORRUPTIONS: tuple[Corruption, ...] = (
    set_size(-1, -(2**70)),
    set_size(2**62 + 1, 2**63, 2**64, 10**300),
    set_size(1.5, float("inf"), "4", None, [], {}, True, float("nan")),
    replace_field,
    drop_field,
    unknown_index,
    wrong_index_type,
    cycle,
    self_edge,
    duplicate_name,
    wrong_format,
    orphan,
    no_ops,
    bad_edge,
    sums_above_the_limit,
)


def corrupted_bytes(index: int) -> bytes:
    """The content of corrupted file `index`: two thirds damage the meaning, one third the bytes."""
    rng = random.Random(index)
    data = copy.deepcopy(rng.choice(small_graphs()))
    text = json.dumps(data).encode()
    if index % 3:
        text = json.dumps(CORRUPTIONS[index % len(CORRUPTIONS)](data, rng)).encode()
        return gzip.compress(text) if rng.random() < 0.3 else text
    match index // 3 % 9:
        case 0:
            return text[: rng.randrange(len(text))]
        case 1:
            zipped = gzip.compress(text)
            return zipped[: rng.randrange(2, len(zipped))]
        case 2:
            # the last 8 bytes are the checksum and the length: any change is noticed
            zipped = bytearray(gzip.compress(text))
            zipped[-rng.randint(1, 8)] ^= 1 << rng.randrange(8)
            return bytes(zipped)
        case 3:
            opening, depth = rng.choice([b"[", b'{"a":']), rng.choice([990, 5_000, 200_000])
            return opening * depth
        case 4:
            return b"[" * 900 + b"]" * 900
        case 5:
            return rng.choice([b"", b"\x00" * 100, b"\xff\xfe\xfa", b"null", b"17", b'"graph"', b"[]", b"{}"])
        case 6:
            return b'{"format": "memsched-graph/1", "ops": ' + b"9" * rng.choice([10, 5_000]) + b"}"
        case 7:
            return text.replace(b'"ops"', rng.choice([b'"ops\xff"', b"'ops'", b'"ops\n"', b"ops"]), 1)
        case _:
            return rng.randbytes(rng.randint(1, 2_000))


@pytest.mark.parametrize("block", range(10))
def test_corrupted_files_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], block: int
) -> None:
    """Never a traceback, never a hang; the line names the file and says what is wrong."""
    for index in range(50 * block, 50 * block + 50):
        path = tmp_path / f"corrupt{index}.json"
        path.write_bytes(corrupted_bytes(index))
        started = time.monotonic()
        assert main(["solve", str(path), "--time-limit", "0"]) == EXIT_BAD_INPUT, (
            f"{index}: {path.read_bytes()[:300]!r}"
        )
        assert time.monotonic() - started < 10
        out, err = capsys.readouterr()
        assert not out
        assert err.count("\n") == 1, err
        assert f"corrupt{index}.json: " in err
        assert len(err.split(": ", 2)[2].strip()) > 5, err


@pytest.mark.parametrize(
    ("corruption", "field"),
    [
        (set_size(-1), "size"),
        (set_size("4"), "size"),
        (unknown_index, "is not an op"),
        (cycle, "cycle"),
        (duplicate_name, "occurs twice"),
        (wrong_format, "format"),
        (no_ops, "ops"),
        (bad_edge, "order_edges"),
        (orphan, "neither a producer nor a consumer"),
    ],
)
def test_the_line_names_the_offender(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], corruption: Corruption, field: str
) -> None:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(corruption(small_graphs()[1], random.Random(4))))
    assert main(["solve", str(path)]) == EXIT_BAD_INPUT
    assert field in capsys.readouterr().err


def test_files_that_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        assert main(["solve", str(path)]) == EXIT_BAD_INPUT
        err = capsys.readouterr().err
        assert str(path) in err and err.count("\n") == 1


def test_strange_names_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Line breaks, markup, half of a surrogate pair: they are only names."""
    data = small_graphs()[0]
    for row, name in zip(data["ops"], ["a\nb", "[red]x[/red]", "\ud800", "\x1b[31m", "", " ", "é", "'"], strict=True):
        row["name"] = name
    (tmp_path / "graph.json").write_text(json.dumps(data))
    assert main(["solve", str(tmp_path / "graph.json")]) == 0
    graph: Graph = read_graph(tmp_path / "graph.json")
    assert solve(graph).peak == peak_bytes(graph, solve(graph).order)


# ---- writing and reading as the system means it


def test_a_link_is_followed_and_the_old_mode_is_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("{}")
    real.chmod(0o600)
    link.symlink_to(real)
    write_json(link, {"a": 1})
    assert link.is_symlink() and json.loads(real.read_text()) == {"a": 1}
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "new.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o640


def test_a_device_is_written_to_and_stays_one() -> None:
    write_json("/dev/null", {"a": 1})
    assert not Path("/dev/null").is_file()


def test_a_pipe_is_read_once() -> None:
    """Peeking into it for gzip's first bytes took them away."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as stream:
        stream.write(gzip.compress(b'{"a": 1}'))
    try:
        assert read_json(f"/dev/fd/{reader}") == {"a": 1}
    finally:
        os.close(reader)

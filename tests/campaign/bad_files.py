"""Bad files: graphs, plans, snapshots and baselines that were damaged, before every command that reads a file.

    a good file ──> one value replaced, dropped, nested 100,000 deep; bytes cut, flipped, in another encoding
      └─> 17 commands: exit code 0 to 4; a refusal is one line; no traceback, nothing hangs;
                       no output of a command that failed, no temporary file

Besides: an empty file, a folder, a link to nowhere and to itself, /dev/null, a name of 300 letters.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memsched.cli.command import EXIT_DONE
from memsched.core.graph import Graph
from memsched.files.graph_file import graph_to_json, write_graph
from memsched.files.json_file import write_json
from memsched.files.plan_file import plan_to_json
from memsched.render.baseline import PEAKS_FORMAT, GraphPeak, Peaks, PeakTensor
from memsched.search.solver import solve
from tests.campaign._commands import run_command
from tests.oracle import random_graph

COUNT = 700

_VALUES: tuple[object, ...] = (
    *(None, True, -1, 0, 2**62 + 1, 2**63, 10**400, 1.5, 1e308, float("nan"), float("inf"), -0.0),
    *("", "x", "\ud800", "\x00", "\x1b[31m", "é" * 50, "a" * 100_000, "NaN"),
    *([], [[]], {}, {"a": 1}, [None], ["x"], [[0, 1]], [[0, 0]], [[1, 2, 3, 4]], [-1], [10**30], [0, 0, 0]),
)
_DEPTHS = (100, 900, 960, 990, 1000, 2000, 100_000)
_ENCODINGS = ("utf-16", "utf-32", "utf-8-sig", "utf-7")


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, object]:
    """`count` files, each before all the commands."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="memsched-") as name:
        folder = Path(name)
        good = GoodFiles(folder, rng)
        for done, path in enumerate(_files(folder, good, count, rng), start=1):
            for arguments in good.commands(path):
                counts["calls"] += 1
                ended = run_command(arguments)
                counts[f"exit {ended.code}"] += 1
                shown = f"{path.name[:40]}: {' '.join(arguments[:2])[:20]}"
                if ended.fault:
                    faults.append(f"{shown}: {ended.fault}")
                if ended.code != 0 and good.outputs():
                    faults.append(f"{shown}: left an output")
                good.clean()
            progress(done)
        left = [entry for entry in os.listdir(folder) if entry.startswith(".")]
        faults += [f"left a temporary file {entry}" for entry in left]
    return {"instances": count, "wrong": len(faults), "faults": faults[:20], **dict(sorted(counts.items()))}


class GoodFiles:
    """One good file of each kind in `folder`, which the commands read beside the bad one."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        graph = random_graph(rng, "general", 8, shared=True)
        self.folder = folder
        self.contents = list(_contents(graph))
        self.graph, self.plan = folder / "good_graph.json", folder / "good_plan.json"
        write_graph(self.graph, graph)
        write_json(self.plan, self.contents[1])
        write_json(folder / "good_peaks.json", self.contents[2])
        (folder / "out").mkdir()
        recorded = folder / "good.pickle"
        for good in (
            ["show", self.plan, "-o", recorded],
            ["show", self.plan, "--measured", recorded, "-o", folder / "good.html"],
            ["diff", folder / "good_peaks.json", folder / "good_peaks.json"],
        ):
            ended = run_command(list(map(str, good)))
            assert ended.code == EXIT_DONE, ended
        self.snapshot = recorded.read_bytes()

    def commands(self, bad: Path) -> Iterator[list[str]]:
        """Every command line that reads a file, with `bad` in each of its places."""
        graph, plan, out = str(self.graph), str(self.plan), str(self.folder / "out" / "file")
        path = str(bad)
        yield ["solve", path, "--time-limit", "0.2", "-o", f"{out}.json"]
        yield ["solve", path, "--time-limit", "0.2", "--json"]
        yield ["solve", path, "--time-limit", "0.2", "--parallel", "2", "-o", f"{out}.json"]
        yield ["verify", path, plan]
        yield ["verify", graph, path]
        yield from (["show", path, "-o", out + suffix] for suffix in (".html", ".csv", ".pickle", ".json"))
        yield ["show", plan, "--graph", path, "-o", f"{out}.html"]
        yield ["show", plan, "--measured", path, "-o", f"{out}.html"]
        yield ["tree", path]
        yield ["tree", path, "-o", f"{out}.svg"]
        yield ["diff", path, plan]
        yield ["diff", plan, path]
        yield ["explain", path]
        yield ["fusions", graph, path]

    def outputs(self) -> list[str]:
        """What commands have written."""
        return os.listdir(self.folder / "out")

    def clean(self) -> None:
        """Remove it."""
        for name in self.outputs():
            (self.folder / "out" / name).unlink()


def _contents(graph: Graph) -> Iterator[dict[str, Any]]:
    """A graph, a plan with its graph and a baseline, as JSON."""
    yield graph_to_json(graph)
    yield json.loads(json.dumps(plan_to_json(graph, solve(graph), embed_graph=True)))
    yield {"format": PEAKS_FORMAT} | asdict(Peaks((GraphPeak("forward 0", 8, 9, 9, 8, (PeakTensor(9),)),)))


def _files(folder: Path, good: GoodFiles, count: int, rng: random.Random) -> Iterator[Path]:
    """`count` bad files, the odd ones first."""
    odd = list(_odd_files(folder, good))[:count]
    yield from odd
    for index in range(count - len(odd)):
        path = folder / f"bad{index}.json"
        content = rng.choice([*good.contents, good.snapshot])
        path.write_bytes(_damaged_bytes(content, rng) if isinstance(content, bytes) else _damaged(content, rng))
        yield path


def _odd_files(folder: Path, good: GoodFiles) -> Iterator[Path]:
    """What is no file, no JSON, or nested too deep."""
    for name, raw in {
        "empty": b"",
        "zeros": b"\0" * 1000,
        "magic": b"\x1f\x8b",
        "number": b"1",
        "null": b"null",
        "list": b"[]",
        "bomb.gz": gzip.compress(b" " * (30 << 20)),
    }.items():
        path = folder / f"{name}.json"
        path.write_bytes(raw)
        yield path
    (folder / "folder.json").mkdir()
    (folder / "nowhere.json").symlink_to(folder / "nothing")
    (folder / "itself.json").symlink_to(folder / "itself.json")
    names = ("folder.json", "nowhere.json", "itself.json", "missing.json", "a" * 300 + ".json")
    yield from (folder / name for name in names)
    yield Path("/dev/null")
    for depth in _DEPTHS:
        for at, content in enumerate(_nested(good.contents[1], depth)):
            path = folder / f"deep{depth}.{at}.json"
            path.write_bytes(content)
            yield path


def _nested(plan: dict[str, Any], depth: int) -> Iterator[bytes]:
    """A plan in which one value is a list of lists of lists."""
    yield b"[" * depth + b"]" * depth
    for key in ("format", "name", "order", "graph", "certificate", "origins"):
        whole = json.dumps(plan | {key: "@"}).encode()
        yield whole.replace(b'"@"', b"[" * depth + b"1" + b"]" * depth)
    tree = {"kind": "tree", "bound": plan["lower_bound"], "tree": "@", "freed_by": []}
    whole = json.dumps(plan | {"certificate": tree}).encode()
    yield whole.replace(b'"@"', b'["S",1,' * depth + b"1" + b"]" * depth)


def _damaged(content: dict[str, Any], rng: random.Random) -> bytes:
    """Two thirds damage the meaning, one third the bytes."""
    data = copy.deepcopy(content)
    if rng.random() < 0.67:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            _damage_value(data, rng)
        return json.dumps(data).encode()
    if rng.random() < 0.2:
        return json.dumps(data).encode(rng.choice(_ENCODINGS))
    return _damaged_bytes(json.dumps(data).encode(), rng)


def _damaged_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Cut off, flipped, or badly compressed."""
    match rng.randrange(4):
        case 0:
            return raw[: rng.randrange(len(raw))]
        case 1:
            return _flipped(raw, 5, 0, rng)
        case 2:
            return _flipped(gzip.compress(raw), 2, 2, rng)
        case _:
            zipped = gzip.compress(raw)
            return zipped[: rng.randrange(2, len(zipped))]


def _damage_value(data: dict[str, Any], rng: random.Random) -> None:
    """Replace or drop one value, anywhere; of a list one of the first six."""
    places = list(_places(data))
    if not places:
        return
    holder, key = rng.choice(places)
    if rng.random() < 0.8:
        holder[key] = copy.deepcopy(rng.choice(_VALUES))
    else:
        del holder[key]


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    keys: list[Any] = list(data) if isinstance(data, dict) else list(range(len(data)))[:6]
    for key in keys:
        yield data, key
        if isinstance(data[key], dict | list):
            yield from _places(data[key])


def _flipped(raw: bytes, times: int, first: int, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(times):
        changed[rng.randrange(first, len(changed))] = rng.randrange(256)
    return bytes(changed)

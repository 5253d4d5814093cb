"""Graphs and plans as files: `memsched-graph/1` and `memsched-plan/1` (JSON, optionally gzip), and Inductor's own JSON.

Reading never trusts: every fault is one line that names the file and the first offending field (`FormatError`).
Writing goes to a temporary file that is renamed, so that a reader never sees half a file.

    {"format": "memsched-graph/1", "name": "...", "ops": [{"name": "op0", "kind": "..."}],
     "buffers": [{"name": "buf0", "size": 4, "producer": 0, "consumers": [1], "kept": false}],
     "order_edges": [[0, 1]], "stock_peaks": {"incoming": 4}}

Readers accept unknown keys.  The third format is what Inductor writes with `reorder_for_peak_memory_debug = True`
(torch/_inductor/memory.py, `export_graph_for_simulator`), so that users can send the graph of a run that they made
without memsched.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memsched.core.graph import MAX_BYTES, Buffer, Graph, GraphError, Op
from memsched.core.origin import Origin, RefusedFusion
from memsched.core.result import (
    Certificate,
    CutCertificate,
    EndpointCertificate,
    ForcedPrecedence,
    ForcingCertificate,
    Schedule,
    StatementCertificate,
    Status,
    TreeCertificate,
)

__all__ = [
    "GRAPH_FORMAT",
    "PLAN_FORMAT",
    "Fields",
    "FormatError",
    "Plan",
    "atomic_write",
    "graph_from_json",
    "graph_to_json",
    "origin_from_json",
    "plan_to_json",
    "read_graph",
    "read_json",
    "read_plan",
    "write_graph",
    "write_json",
]

GRAPH_FORMAT = "memsched-graph/1"
PLAN_FORMAT = "memsched-plan/1"
_MAX_FILE_BYTES = 1 << 30


class FormatError(ValueError):
    """A file that cannot be used: one line with the file, the field and the fault."""


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """The graph in a `memsched-graph/1` file or in Inductor's debug JSON; raises FormatError."""
    data = read_json(path)
    try:
        if isinstance(data, dict) and "format" not in data and {"nodes", "buffers"} <= data.keys():
            return graph_from_inductor_json(data, name=Path(path).name)
        return graph_from_json(data)
    except (FormatError, GraphError) as error:
        raise FormatError(f"{path}: {error}") from None


def write_graph(path: str | os.PathLike[str], graph: Graph) -> None:
    """Write `graph`; gzip when the name ends in .gz."""
    write_json(path, graph_to_json(graph))


def graph_from_json(data: object) -> Graph:
    """The graph in a parsed `memsched-graph/1` object; raises FormatError or GraphError."""
    fields = Fields("graph", data)
    fields.expect_format(GRAPH_FORMAT)
    ops = tuple(Op(op.text("name"), op.text("kind", ""), op.integer("workspace", 0)) for op in fields.objects("ops"))
    buffers = tuple(
        Buffer(
            name=buffer.text("name"),
            size=buffer.integer("size"),
            producer=buffer.optional_integer("producer"),
            consumers=tuple(sorted(set(buffer.integers("consumers")))),
            kept=buffer.boolean("kept", False),
        )
        for buffer in fields.objects("buffers")
    )
    return Graph(
        name=fields.text("name", ""),
        ops=ops,
        buffers=buffers,
        order_edges=fields.pairs("order_edges"),
        torch=fields.text("torch", ""),
        device=fields.text("device", ""),
        stage=fields.text("stage", ""),
        stock_peaks=fields.integer_map("stock_peaks"),
    )


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """`graph` as a `memsched-graph/1` object."""
    workspaces = [{"workspace": op.workspace} if op.workspace else {} for op in graph.ops]
    return {
        "format": GRAPH_FORMAT,
        "name": graph.name,
        "torch": graph.torch,
        "device": graph.device,
        "stage": graph.stage,
        "ops": [{"name": op.name, "kind": op.kind} | more for op, more in zip(graph.ops, workspaces, strict=True)],
        "order_edges": [list(edge) for edge in graph.order_edges],
        "buffers": [
            {
                "name": buffer.name,
                "size": buffer.size,
                "producer": buffer.producer,
                "consumers": list(buffer.consumers),
                "kept": buffer.kept,
            }
            for buffer in graph.buffers
        ],
        "stock_peaks": dict(graph.stock_peaks),
    }


def graph_from_inductor_json(data: object, name: str) -> Graph:
    """The graph that Inductor dumps with `reorder_for_peak_memory_debug`; raises FormatError or GraphError.

    A node lists the buffers that it writes; a buffer lists in `deps` the buffers that its node reads.  What no node
    writes and is not listed is an input that the caller keeps: it is constant, and left out.

    `size_alloc` and `size_free` differ for the kernels with several outputs: the parent buffer allocates for all
    and frees nothing, its pieces allocate nothing and free their share.

        parent: alloc 12, free 0 ──┬─> piece 1: alloc 0, free 8       here: two buffers of 8 and 4 bytes that the
                                   └─> piece 2: alloc 0, free 4       parent's node writes and the pieces' nodes read
    """
    return _InductorDump(data).graph(name)


class _InductorDump:
    """Inductor's nodes and buffers, by name."""

    def __init__(self, data: object) -> None:
        fields = Fields("graph", data)
        self.ops = tuple(Op(node.text("name")) for node in fields.objects("nodes"))
        self.rows = list(fields.objects("buffers"))
        self.names = [row.text("name") for row in self.rows]
        self.index_of = {name: index for index, name in enumerate(self.names)}
        self.allocated = [self._size(row, "size_alloc") for row in self.rows]
        self.freed = [self._size(row, "size_free") for row in self.rows]
        self.deps = [[self.index_of[dep] for dep in row.texts("deps") if dep in self.index_of] for row in self.rows]
        self.writer: list[int | None] = [None] * len(self.rows)
        for op, node in enumerate(fields.objects("nodes")):
            for written in node.texts("buffer_names"):
                if written in self.index_of:
                    self.writer[self.index_of[written]] = op

    def graph(self, name: str) -> Graph:
        """The same as a `Graph`."""
        readers: list[set[int]] = [set() for _ in self.rows]
        for index, deps in enumerate(self.deps):
            writer = self.writer[index]
            for dep in deps:
                if writer is not None and writer != self.writer[dep]:
                    readers[dep].add(writer)
        producers = self._producers(readers)
        buffers = []
        for index, row in enumerate(self.rows):
            kept, size = row.boolean("is_output", False), self.freed[index]
            consumers = tuple(sorted(readers[index]))
            if producers[index] is None and not consumers:
                continue  # a constant
            buffers.append(Buffer(self.names[index], size, producers[index], consumers, kept))
            rest = self.allocated[index] - size
            if rest > 0:
                buffers.append(Buffer(f"{self.names[index]} (never freed)", rest, producers[index], (), True))
        return Graph(name, self.ops, tuple(buffers))

    def _producers(self, readers: list[set[int]]) -> list[int | None]:
        """Who allocates each buffer; the pieces of a parent move to the parent's node, whose buffer gets smaller."""
        producers = list(self.writer)
        for index, row in enumerate(self.rows):
            writer = self.writer[index]
            if writer is None and not row.boolean("is_input", False):
                raise FormatError(f"buffers[{index}].name: no node writes {self.names[index]!r}")
            missing = self.freed[index] - self.allocated[index]
            if missing <= 0:
                continue
            parent = next((dep for dep in self.deps[index] if self.allocated[dep] - self.freed[dep] >= missing), None)
            if writer is None or parent is None or self.allocated[index]:
                raise FormatError(f"buffers[{index}].size_free: frees {missing} bytes that nobody allocates")
            self.allocated[parent] -= missing
            self.allocated[index] = self.freed[index]
            producers[index] = self.writer[parent]
            readers[index].add(writer)
        return producers

    @staticmethod
    def _size(row: Fields, key: str) -> int:
        size = row.integer(key)
        if not 0 <= size <= MAX_BYTES:
            raise FormatError(f"{row.where}.{key}: {size} is not between 0 and 2**62 bytes")
        return size


class Plan:
    """A schedule that came out of a file, with what the file says about the graph that it is for."""

    def __init__(self, fields: Fields) -> None:
        fields.expect_format(PLAN_FORMAT)
        self.name = fields.text("name", "")
        self.num_ops = fields.integer("ops")
        self.graph_digest = fields.text("graph_digest", "")
        self.peak = fields.integer("peak")
        self.lower_bound = fields.integer("lower_bound")
        self.status = fields.text("status")
        if self.status not in _STATUSES:
            raise FormatError(f"status: {self.status[:40]!r} is not one of {', '.join(_STATUSES)}")
        self.method = fields.text("method")
        self.order = fields.integers("order")
        self.certificate = _certificate_from_json(fields)
        self._fields = fields

    def embedded_graph(self) -> Graph | None:
        """The graph that the file carries, or None; raises FormatError.  `verify` does not use it."""
        data = self._fields.data.get("graph")
        if data is None:
            return None
        try:
            return graph_from_json(data)
        except (FormatError, GraphError) as error:
            raise FormatError(f"graph: {str(error).removeprefix('graph: ')}") from None

    def embedded_origins(self) -> dict[str, Origin]:
        """Where each buffer comes from, by name, as far as the file tells; raises FormatError."""
        rows = Fields("origins", self._fields.data.get("origins", {})).data
        return {name: origin_from_json(f"origins.{name[:40]!r}", row) for name, row in rows.items()}

    def embedded_refusals(self) -> tuple[RefusedFusion, ...]:
        """The fusions that were refused for this plan, dearest first, as far as the file tells; raises FormatError."""
        return tuple(map(_refusal_from_json, self._fields.objects("refusals", optional=True)))


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """The plan in a `memsched-plan/1` file; raises FormatError."""
    data = read_json(path)
    try:
        return Plan(Fields("plan", data))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def plan_to_json(
    graph: Graph,
    schedule: Schedule,
    *,
    embed_graph: bool = False,
    origins: Mapping[str, Origin] | None = None,
    refusals: Sequence[RefusedFusion] = (),
) -> dict[str, Any]:
    """`schedule` of `graph` as a `memsched-plan/1` object.

    For `memsched show` also the graph, where its buffers come from, and the fusions that were refused.
    """
    certificate = None
    if schedule.certificate is not None:
        certificate = {"kind": _KINDS[type(schedule.certificate)], **asdict(schedule.certificate)}
    embedded: dict[str, Any] = {"graph": graph_to_json(graph)} if embed_graph else {}
    if origins:
        embedded["origins"] = {name: _origin_to_json(origin) for name, origin in origins.items()}
    if refusals:
        embedded["refusals"] = [asdict(refusal) for refusal in refusals]
    return {
        "format": PLAN_FORMAT,
        "name": graph.name,
        "graph_digest": graph.digest,
        "ops": len(graph.ops),
        "peak": schedule.peak,
        "lower_bound": schedule.lower_bound,
        "gap": schedule.gap if schedule.lower_bound else None,
        "status": schedule.status.value,
        "method": schedule.method,
        "seconds": round(schedule.seconds, 6),
        "order": list(schedule.order),
        "certificate": certificate,
        "note": schedule.note,
        **embedded,
    }


def _origin_to_json(origin: Origin) -> dict[str, Any]:
    """What is known, and no empty field."""
    return {key: list(value) if key == "shape" else value for key, value in asdict(origin).items() if value}


def origin_from_json(where: str, data: object) -> Origin:
    """The origin in a JSON object that a fault calls `where`; raises FormatError."""
    fields = Fields(where, data)
    texts = {key: fields.text(key, "") for key in Origin.__slots__ if key != "shape"}
    return Origin(shape=fields.integers("shape"), **texts)


def _refusal_from_json(fields: Fields) -> RefusedFusion:
    """A refused fusion; what an older file does not have is 0."""
    ops, other, price = fields.texts("ops"), fields.texts("other"), fields.integer("price")
    return RefusedFusion(ops, other, price, fields.integer("traffic", 0), fields.boolean("vertical", False))


_STATUSES = tuple(status.value for status in Status)

_KINDS: dict[type, str] = {
    EndpointCertificate: "endpoints",
    CutCertificate: "cut",
    ForcingCertificate: "forcing",
    TreeCertificate: "tree",
    StatementCertificate: "statement",
}


def _certificate_from_json(plan: Fields) -> Certificate | None:
    if plan.data.get("certificate") is None:
        return None
    fields = Fields("certificate", plan.data["certificate"])
    bound = fields.integer("bound")
    match fields.text("kind"):
        case "endpoints":
            return EndpointCertificate(bound)
        case "cut":
            return CutCertificate(
                bound,
                fields.integer("op"),
                fields.integers("down_set"),
                fields.triples("reader_flow"),
                fields.triples("precedence_flow"),
            )
        case "forcing":
            return ForcingCertificate(bound, tuple(_forced_from_json(step) for step in fields.objects("steps")))
        case "tree":
            return TreeCertificate(bound, fields.data.get("tree"), fields.pairs("freed_by"))
        case "statement":
            return StatementCertificate(bound, fields.text("method"), fields.text("statement", ""))
        case kind:
            raise FormatError(f"certificate.kind: {kind!r} is unknown")


def _forced_from_json(step: Fields) -> ForcedPrecedence:
    return ForcedPrecedence(
        step.integer("op"),
        step.optional_integer("other"),
        step.boolean("other_first", False),
        step.triples("reader_flow"),
        step.triples("precedence_flow"),
    )


class Fields:
    """A JSON object whose fields are asked for by name and type; a fault names the path to the field."""

    def __init__(self, where: str, data: object) -> None:
        if not isinstance(data, dict):
            raise FormatError(f"{where}: expected an object, found {_kind_of(data)}")
        self.where = where
        self.data: dict[str, Any] = data

    def expect_format(self, expected: str) -> None:
        found = self.data.get("format")
        if found != expected:
            raise FormatError(f"format: expected {expected!r}, found {str(found)[:40]!r}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._list(key)
        for at, value in enumerate(values):
            if not isinstance(value, str):
                raise self._wrong(f"{key}[{at}]", "a string", value)
        return tuple(values)

    def integer(self, key: str, default: int | None = None) -> int:
        return self._integer(key, self.data.get(key, default))

    def optional_integer(self, key: str) -> int | None:
        if key not in self.data:
            raise self._wrong(key, "an integer or null", None, missing=True)
        return None if self.data[key] is None else self.integer(key)

    def integers(self, key: str) -> tuple[int, ...]:
        return tuple(self._integer(f"{key}[{at}]", value) for at, value in enumerate(self._list(key)))

    def pairs(self, key: str) -> tuple[tuple[int, int], ...]:
        rows = self._rows(key, 2)
        return tuple((row[0], row[1]) for row in rows)

    def triples(self, key: str) -> tuple[tuple[int, int, int], ...]:
        rows = self._rows(key, 3)
        return tuple((row[0], row[1], row[2]) for row in rows)

    def integer_map(self, key: str) -> dict[str, int]:
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return {name: self._integer(f"{key}.{name}", number) for name, number in value.items()}

    def objects(self, key: str, optional: bool = False) -> Iterator[Fields]:
        for at, value in enumerate(self._list(key, required=not optional)):
            yield Fields(self._path(f"{key}[{at}]"), value)

    def _rows(self, key: str, width: int) -> list[list[int]]:
        rows = []
        for at, row in enumerate(self._list(key)):
            if not isinstance(row, list) or len(row) != width:
                raise self._wrong(f"{key}[{at}]", f"{width} integers", row)
            rows.append([self._integer(f"{key}[{at}]", value) for value in row])
        return rows

    def _list(self, key: str, required: bool = False) -> list[Any]:
        value = self.data.get(key, None if required else [])
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return value

    def _integer(self, key: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "an integer", value)
        return value

    def _path(self, key: str) -> str:
        return key if self.where in ("graph", "plan") else f"{self.where}.{key}"

    def _wrong(self, key: str, expected: str, value: object, missing: bool = False) -> FormatError:
        path = self._path(key)
        found = "nothing" if missing or value is None else _kind_of(value)
        return FormatError(f"{path}: expected {expected}, found {found}")


def _kind_of(value: object) -> str:
    match value:
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
        case str():
            return repr(value if len(value) <= 40 else f"{value[:37]}...")
        case int() if abs(value) > MAX_BYTES:
            return f"an integer of {value.bit_length()} bits"
        case _:
            return json.dumps(value)


def read_json(path: str | os.PathLike[str]) -> object:
    """The JSON in a file, gzip or not; raises FormatError."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else open(path, "rb") as stream:
            raw = stream.read(_MAX_FILE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FormatError(f"{path}: damaged gzip file ({error})") from None
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise FormatError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise FormatError(f"{path}: not JSON ({reason.splitlines()[0]})") from None


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number")


def write_json(path: str | os.PathLike[str], data: object) -> None:
    """Write `data` as JSON, gzip when the name ends in .gz, whole or not at all."""
    text = json.dumps(data, separators=(",", ":")).encode()
    # mtime=0: the same content gives the same bytes on every run
    atomic_write(path, gzip.compress(text, mtime=0) if str(path).endswith(".gz") else text + b"\n")


def atomic_write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to a temporary file beside `path` and rename it: a reader sees the old file or the new one."""
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

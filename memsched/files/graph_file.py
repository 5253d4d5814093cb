"""Graphs as files: `memsched-graph/1` (JSON, gzip or not), and what Inductor itself writes.

    {"format": "memsched-graph/1", "name": "...", "ops": [{"name": "op0", "kind": "..."}],
     "buffers": [{"name": "buf0", "size": 4, "producer": 0, "consumers": [1], "kept": false}],
     "order_edges": [[0, 1]], "stock_peaks": {"incoming": 4}}

Sizes are bytes, ops are numbered from 0.  Readers accept unknown keys; every fault is one line that names the file and
the first offending field (`FormatError`).  All formats: docs/file-formats.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from memsched.core.graph import Buffer, Graph, GraphError, Op
from memsched.files.fields import Fields, FormatError
from memsched.files.inductor_dump import graph_from_inductor_json
from memsched.files.json_file import read_json, write_json

__all__ = [
    "GRAPH_FORMAT",
    "graph_from_json",
    "graph_of",
    "graph_to_json",
    "read_graph",
    "write_graph",
]

GRAPH_FORMAT = "memsched-graph/1"


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """The graph in a `memsched-graph/1` file or in Inductor's debug JSON; raises FormatError."""
    return graph_of(path, read_json(path))


def graph_of(path: str | os.PathLike[str], data: object) -> Graph:
    """The graph in the parsed JSON of the file `path`, as `read_graph` reads it; raises FormatError."""
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

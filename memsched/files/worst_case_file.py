"""Worst cases of parallel executions as files: `memsched-worst-case/1` (JSON, gzip or not).

    {"format": "memsched-worst-case/1", "name": "...", "graph_digest": "...", "ops": 4, "parallel": 2, "held": 14,
     "bound": 14, "status": "optimal", "method": "minimum cut", "completed": [0], "started": [0, 1, 2],
     "certificate": {...}, "edges": []}

`parallel` is null for any number of ops at once.  `edges` were added to the graph to keep it under `limit`; the
statement is about the graph with them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memsched.core.execution import Execution, WorstCase, WorstCaseCertificate
from memsched.core.graph import Graph, GraphError
from memsched.files.fields import Fields, FormatError

__all__ = ["WORST_CASE_FORMAT", "WorstCaseFile", "read_worst_case", "worst_case_to_json"]

WORST_CASE_FORMAT = "memsched-worst-case/1"


@dataclass(frozen=True, slots=True)
class WorstCaseFile:
    """What a file states: a worst case of the graph with that digest and number of ops, and with these edges added."""

    num_ops: int
    graph_digest: str
    limit: int | None
    edges: tuple[tuple[int, int], ...]
    worst: WorstCase

    def graph_with_edges(self, graph: Graph) -> Graph:
        """`graph` with the edges of the file; raises FormatError when they are not edges of it or close a cycle."""
        try:
            return graph.with_order_edges(self.edges)
        except GraphError as error:
            raise FormatError(f"edges: {error}") from None


def worst_case_to_json(
    graph: Graph, worst: WorstCase, limit: int | None = None, edges: Sequence[tuple[int, int]] = ()
) -> dict[str, Any]:
    """`worst`, of `graph` with `edges`, as a `memsched-worst-case/1` object."""
    return {
        "format": WORST_CASE_FORMAT,
        "name": graph.name,
        "graph_digest": graph.digest,
        "ops": len(graph.ops),
        "parallel": worst.parallel,
        "held": worst.held,
        "bound": worst.bound,
        "status": worst.status.value,
        "method": worst.method,
        "completed": list(worst.execution.completed),
        "started": list(worst.execution.started),
        "certificate": asdict(worst.certificate),
        "limit": limit,
        "edges": [list(edge) for edge in edges],
    }


def read_worst_case(path: str | os.PathLike[str], data: object) -> WorstCaseFile:
    """The worst case in the parsed JSON of the file `path`; raises FormatError."""
    try:
        return _from_fields(Fields("plan", data))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _from_fields(fields: Fields) -> WorstCaseFile:
    fields.expect_format(WORST_CASE_FORMAT)
    certificate = Fields("certificate", fields.data.get("certificate"))
    worst = WorstCase(
        fields.optional_integer("parallel"),
        Execution(fields.integers("completed"), fields.integers("started")),
        fields.integer("held"),
        fields.integer("bound"),
        WorstCaseCertificate(
            certificate.integer("bound"),
            certificate.integer("running_price"),
            certificate.pairs("completion_flow"),
            certificate.triples("precedence_flow"),
            certificate.triples("freed_flow"),
        ),
        fields.text("method"),
    )
    status = fields.text("status")
    if status != worst.status.value:
        raise FormatError(f"status: {status[:40]!r}, but held and bound say {worst.status.value}")
    return WorstCaseFile(
        fields.integer("ops"),
        fields.text("graph_digest", ""),
        fields.optional_integer("limit"),
        fields.pairs("edges"),
        worst,
    )

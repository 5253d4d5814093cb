"""Plans as files: `memsched-plan/1` (JSON, gzip or not), a schedule with its certificate.

    {"format": "memsched-plan/1", "name": "...", "graph_digest": "...", "ops": 2, "peak": 4, "lower_bound": 4,
     "gap": 0.0, "status": "optimal", "method": "local", "order": [0, 1], "certificate": {"kind": "cut", ...}}

For `memsched show` a plan may carry its graph, where the buffers come from, and the fusions that were refused;
`memsched verify` reads none of that: it takes the graph from a file of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from memsched.core.graph import Graph, GraphError
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
from memsched.files.fields import Fields, FormatError
from memsched.files.graph_file import graph_from_json, graph_to_json
from memsched.files.json_file import read_json
from memsched.records.fusion import RefusedFusion
from memsched.records.origin import Origin, Role
from memsched.records.report import GraphReport

__all__ = ["PLAN_FORMAT", "Plan", "origin_from_json", "plan_from_json", "plan_to_json", "read_plan", "report_to_plan"]

PLAN_FORMAT = "memsched-plan/1"


class Plan:
    """A schedule that came out of a file, with what the file says about the graph that it is for."""

    def __init__(self, fields: Fields) -> None:
        fields.expect_format(PLAN_FORMAT)
        self.name = fields.text("name", "")
        self.num_ops = fields.integer("ops")
        self.graph_digest = fields.text("graph_digest", "")
        self.peak = fields.integer("peak")
        self.lower_bound = fields.integer("lower_bound")
        self.states_gap = "gap" in fields.data
        self.gap = fields.optional_number("gap") if self.states_gap else None
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
    return plan_from_json(path, read_json(path))


def plan_from_json(path: str | os.PathLike[str], data: object) -> Plan:
    """The plan in the parsed JSON of the file `path`; raises FormatError."""
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


def report_to_plan(report: GraphReport) -> dict[str, Any]:
    """The plan of a report as a `memsched-plan/1` object, with its graph, the origins and the refused fusions.

    Raises:
        ValueError: the graph was left to stock, or came out of a cache: there is no plan here.
    """
    if report.graph is None or report.schedule is None:
        raise ValueError(f"{report.name} has no plan here: {report.fallback or 'it came out of a cache'}")
    return plan_to_json(
        report.graph, report.schedule, embed_graph=True, origins=report.origins, refusals=report.refusals
    )


def _origin_to_json(origin: Origin) -> dict[str, Any]:
    """What is known, and no empty field."""
    plain = asdict(origin) | {"shape": list(origin.shape), "role": str(origin.role)}
    return {key: value for key, value in plain.items() if value}


def origin_from_json(where: str, data: object) -> Origin:
    """The origin in a JSON object that a fault calls `where`; raises FormatError."""
    fields = Fields(where, data)
    texts = {key: fields.text(key, "") for key in Origin.__slots__ if key not in ("shape", "role")}
    try:
        role = Role.parse(fields.text("role", ""))
    except ValueError as error:
        raise FormatError(f"{where}.role: {error}") from None
    return Origin(shape=fields.integers("shape"), role=role, **texts)


def _refusal_from_json(fields: Fields) -> RefusedFusion:
    """A refused fusion; what an older file does not have is 0."""
    ops, other, price = fields.texts("ops"), fields.texts("other"), fields.integer("price")
    return RefusedFusion(ops, other, price, fields.integer("traffic", 0), fields.boolean("vertical", False))


_STATUSES = tuple(status.value for status in Status if status is not Status.STOCK)


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

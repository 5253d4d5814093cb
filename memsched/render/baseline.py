"""Peaks kept in a file, and what has changed since: the gate in continuous integration, and `memsched diff`.

    {"format": "memsched-peaks/1", "torch": "2.13.0", "device": "cpu",
     "graphs": [{"name": "backward 0", "ops": 162, "peak": 185652, "lower_bound": 185652, "kernels": 158,
                 "tensors": [{"size": 16384, "type": "float32[2, 16, 128]", "operator": "aten.mm.default",
                              "module": "blocks.0.feed_forward.2", "source": "model.py:41 in forward: ..."}]}]}

Names of buffers mean nothing from one compile to the next, and line numbers move with every edit.  A tensor of one plan
is therefore the same as one of another when its bytes, type, operator, module and code agree; what is left over on the
newer side *appeared* at the peak, and what is left over on the older side is *gone* from it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memsched.check.error import CheckError
from memsched.check.plan import check_plan
from memsched.core.graph import Graph
from memsched.core.sizes import InputError, format_bytes
from memsched.files.fields import Fields, FormatError
from memsched.files.json_file import read_json, write_json
from memsched.files.plan_file import PLAN_FORMAT, Plan, origin_from_json, plan_from_json
from memsched.records.explanation import EXPLANATION_FORMAT, Explanation, GraphExplanation
from memsched.records.origin import Origin
from memsched.render.planned_file import PlannedFile, plan_files
from memsched.render.text.words import clipped, type_of
from memsched.render.timeline import timeline_of

__all__ = [
    "PEAKS_FORMAT",
    "Change",
    "GraphPeak",
    "PeakTensor",
    "Peaks",
    "changes_to_json",
    "compare",
    "peaks_of",
    "peaks_of_plans",
    "read_peaks",
    "render_changes",
    "write_peaks",
]

PEAKS_FORMAT = "memsched-peaks/1"
DIFF_FORMAT = "memsched-diff/1"

_TENSORS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class PeakTensor:
    """A tensor that is live at a peak, in terms that mean the same in another compile; size in bytes."""

    size: int
    type: str = ""
    operator: str = ""
    module: str = ""
    source: str = ""

    @property
    def identity(self) -> tuple[int, str, str, str, str]:
        """What two plans have in common when they hold the same tensor: all but the file and the line number."""
        return self.size, self.type, self.operator, self.module, self.source.partition(" in ")[2]

    def __str__(self) -> str:
        where = " ".join(filter(None, (self.operator, self.module and f"in {self.module}")))
        return f"{format_bytes(self.size)} {self.type} {where}, {self.source or 'no source line'}".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class GraphPeak:
    """The peak of one compiled graph, bytes, and the tensors that make it."""

    name: str
    ops: int
    peak: int
    lower_bound: int = 0
    kernels: int = 0
    tensors: tuple[PeakTensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Peaks:
    """The peaks of all graphs of a step."""

    graphs: tuple[GraphPeak, ...]
    torch: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One graph in two plans, either of which may lack it, and the tensors that only one of the peaks holds."""

    name: str
    before: GraphPeak | None
    after: GraphPeak | None
    appeared: tuple[PeakTensor, ...] = ()
    gone: tuple[PeakTensor, ...] = ()

    def rose(self, tolerance: float) -> bool:
        """Whether the peak is above the older one by more than that share, or the graph was not there before."""
        if self.after is None:
            return False
        return self.before is None or self.after.peak > self.before.peak * (1 + tolerance)


def peaks_of(explanation: Explanation, torch: str = "") -> Peaks:
    """The peaks in an explanation.

    Raises:
        InputError: a graph was left to stock, and its peak is not known.
    """
    unknown = next((graph for graph in explanation.graphs if graph.fallback), None)
    if unknown is not None:
        raise InputError(f"{unknown.name} has no plan to compare: {unknown.fallback}")
    return Peaks(tuple(map(_graph_peak, explanation.graphs)), torch, explanation.device)


def _graph_peak(graph: GraphExplanation) -> GraphPeak:
    tensors = tuple(_peak_tensor(tensor.size, tensor.origin) for tensor in graph.tensors)
    return GraphPeak(graph.name, graph.ops, graph.peak, graph.lower_bound, graph.kernels, tensors)


def _peak_tensor(size: int, origin: Origin) -> PeakTensor:
    return PeakTensor(size, type_of(origin), origin.operator, origin.module, origin.source)


# ---- files


def write_peaks(path: str | os.PathLike[str], peaks: Peaks) -> None:
    """Write a `memsched-peaks/1` file, whole or not at all."""
    write_json(path, {"format": PEAKS_FORMAT} | asdict(peaks))


def read_peaks(path: str | os.PathLike[str]) -> Peaks:
    """The peaks in a baseline, an explanation (`memsched explain --json`), a plan, or a folder of plans.

    Raises:
        FormatError: one line with the file, the field and the fault.
    """
    if os.path.isdir(path):
        return Peaks(
            tuple(graph for file in plan_files(path) for graph in _planned_peaks(file, read_json(file)).graphs)
        )
    data = read_json(path)
    kind = data.get("format") if isinstance(data, dict) else None
    if kind == PLAN_FORMAT:
        return _planned_peaks(path, data)
    if kind not in (PEAKS_FORMAT, EXPLANATION_FORMAT):
        expected = f"{PEAKS_FORMAT}, {EXPLANATION_FORMAT} or {PLAN_FORMAT}"
        raise FormatError(f"{path}: format: expected {expected}, found {str(kind)[:40]!r}")
    try:
        fields = Fields("peaks", data)
        graphs = tuple(_graph_from_json(graph) for graph in fields.objects("graphs"))
        return Peaks(graphs, fields.text("torch", ""), fields.text("device", ""))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _graph_from_json(fields: Fields) -> GraphPeak:
    numbers = {key: fields.integer(key, 0) for key in ("ops", "lower_bound", "kernels")}
    tensors = tuple(map(_tensor_from_json, fields.objects("tensors")))
    peak = fields.integer("peak")
    if peak < 0:
        raise FormatError(f"{fields.where}.peak: {peak} is negative")
    return GraphPeak(fields.text("name"), numbers["ops"], peak, numbers["lower_bound"], numbers["kernels"], tensors)


def _tensor_from_json(fields: Fields) -> PeakTensor:
    """A tensor of a baseline, or of an explanation, which has its origin apart."""
    size = fields.integer("size")
    if "origin" in fields.data:
        return _peak_tensor(size, origin_from_json(f"{fields.where}.origin", fields.data["origin"]))
    return PeakTensor(size, *(fields.text(key, "") for key in ("type", "operator", "module", "source")))


def _planned_peaks(path: str | os.PathLike[str], data: object) -> Peaks:
    plan = plan_from_json(path, data)
    try:
        return Peaks((_planned_peak(plan),))
    except (FormatError, CheckError) as error:
        raise FormatError(f"{path}: {error}") from None


def _planned_peak(plan: Plan) -> GraphPeak:
    """The peak of a plan; its tensors too, if the plan holds its graph, of which it must be a plan then."""
    graph = plan.embedded_graph()
    tensors: tuple[PeakTensor, ...] = ()
    if graph is not None:
        check_plan(graph, plan)
        tensors = _tensors_at_peak(graph, plan.order, plan.embedded_origins())
    return GraphPeak(plan.name, plan.num_ops, plan.peak, plan.lower_bound, 0, tensors)


def peaks_of_plans(plans: Sequence[PlannedFile]) -> Peaks:
    """The peaks of plans that were read with their graphs."""
    return Peaks(tuple(map(_peak_of_plan, plans)))


def _peak_of_plan(planned: PlannedFile) -> GraphPeak:
    graph, found = planned.graph, planned.schedule
    tensors = _tensors_at_peak(graph, found.order, planned.origins)
    return GraphPeak(graph.name, len(graph), found.peak, found.lower_bound, 0, tensors)


def _tensors_at_peak(graph: Graph, order: Sequence[int], origins: Mapping[str, Origin]) -> tuple[PeakTensor, ...]:
    timeline = timeline_of(graph, order, origins=origins)
    live = (graph.buffers[index] for index in timeline.live_at(timeline.profile.peak_step))
    return tuple(_peak_tensor(buffer.size, origins.get(buffer.name, Origin())) for buffer in live)


# ---- what changed


def compare(before: Peaks, after: Peaks) -> list[Change]:
    """One change for each graph of either side, those of `after` first, in their order."""
    old = {graph.name: graph for graph in before.graphs}
    new = {graph.name: graph for graph in after.graphs}
    return [_change(name, old.get(name), new.get(name)) for name in dict.fromkeys([*new, *old])]


def _change(name: str, before: GraphPeak | None, after: GraphPeak | None) -> Change:
    if before is None or after is None:
        return Change(name, before, after)
    return Change(
        name, before, after, _left_over(after.tensors, before.tensors), _left_over(before.tensors, after.tensors)
    )


def _left_over(tensors: Iterable[PeakTensor], others: Iterable[PeakTensor]) -> tuple[PeakTensor, ...]:
    """The tensors that have no partner among `others`, largest first."""
    partners = Counter(tensor.identity for tensor in others)
    left = []
    for tensor in tensors:
        if partners[tensor.identity]:
            partners[tensor.identity] -= 1
        else:
            left.append(tensor)
    return tuple(sorted(left, key=lambda tensor: (-tensor.size, tensor.identity)))


def render_changes(changes: Sequence[Change], tolerance: float = 0.0, tensors_of_all: bool = False) -> str:
    """A table of the peaks, then, for graphs that rose (or all that changed), the tensors that made the difference."""
    rows = [("graph", "before", "now", "change")]
    rows += [
        (change.name, _peak(change.before), _peak(change.after), _percent(change, tolerance)) for change in changes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:<{widths[3]}}".rstrip()
        for row in rows
    ]
    for change in changes:
        if tensors_of_all or change.rose(tolerance):
            lines += _tensor_lines(f"{change.name}: appeared at the peak", change.appeared)
            lines += _tensor_lines(f"{change.name}: gone from the peak", change.gone)
    return "\n".join(lines)


def changes_to_json(changes: Sequence[Change], versions: tuple[str, str]) -> dict[str, Any]:
    """A `memsched-diff/1` object; versions: of torch, before and now."""
    return {"format": DIFF_FORMAT, "torch": versions, "graphs": [asdict(change) for change in changes]}


def _tensor_lines(title: str, tensors: Sequence[PeakTensor]) -> list[str]:
    if not tensors:
        return []
    lines = ["", title]
    lines += [f"  {clipped(str(tensor), 200)}" for tensor in tensors[:_TENSORS_SHOWN]]
    rest = tensors[_TENSORS_SHOWN:]
    if rest:
        lines.append(f"  {format_bytes(sum(tensor.size for tensor in rest))} in {len(rest)} more")
    return lines


def _peak(graph: GraphPeak | None) -> str:
    return "none" if graph is None else format_bytes(graph.peak)


def _percent(change: Change, tolerance: float) -> str:
    if change.before is None:
        return "new graph"
    if change.after is None:
        return "gone"
    share = change.after.peak / change.before.peak - 1 if change.before.peak else 0.0
    return f"{share:+.2%}" + (" ROSE" if change.rose(tolerance) else "")

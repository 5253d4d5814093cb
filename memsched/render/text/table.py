"""The order as a CSV table, one row for each step, for spreadsheets and pandas; bytes.

    step,op,kind,allocates,frees,live_while_running,live_after,workspace,allocated,freed,source
    0,a,Kernel,4,0,4,4,0,X,,model.py:41 in forward: F.gelu(x)

`allocated` and `freed` list names of buffers, separated by spaces; `source` is that of the largest buffer allocated.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from memsched.records.origin import Origin
from memsched.render.timeline import Timeline

__all__ = ["COLUMNS", "render_csv"]

COLUMNS = (
    "step",
    "op",
    "kind",
    "allocates",
    "frees",
    "live_while_running",
    "live_after",
    "workspace",
    "allocated",
    "freed",
    "source",
)

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render_csv(timeline: Timeline) -> str:
    """The rows of `timeline`, with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    graph, profile = timeline.graph, timeline.profile
    allocated, freed = timeline.allocated_at(), timeline.freed_after()
    for step, index in enumerate(timeline.order):
        op = graph.ops[index]
        frees = sum(graph.buffers[buffer].size for buffer in freed[step])
        names = (_names(timeline, allocated[step]), _names(timeline, freed[step]), _source(timeline, allocated[step]))
        numbers = (graph.output_bytes[index], frees, profile.step_peaks[step], profile.levels[step], op.workspace)
        writer.writerow((step, _cell(op.name), _cell(op.kind), *numbers, *map(_cell, names)))
    return text.getvalue()


def _names(timeline: Timeline, buffers: Sequence[int]) -> str:
    return " ".join(timeline.graph.buffers[index].name for index in buffers)


def _source(timeline: Timeline, buffers: Sequence[int]) -> str:
    if not buffers:
        return ""
    largest = max(buffers, key=lambda index: (timeline.graph.buffers[index].size, -index))
    return timeline.origins.get(timeline.graph.buffers[largest].name, Origin()).source


def _cell(text: str) -> str:
    """`text`, with a quote in front where a spreadsheet would take it for a formula."""
    return "'" + text if text.startswith(_STARTS_A_FORMULA) else text

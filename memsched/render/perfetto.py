"""A trace for ui.perfetto.dev and chrome://tracing: one process for each order, with live bytes and a slice per op.

    live bytes  ▁▂▄▇▅▂      a counter: the step's peak while the op runs, the level after it
    ops         a b c d     slices; their arguments name what the op allocates and frees

The clock counts steps, one millisecond each: the order is known, how long an op takes is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from memsched.render.timeline import Timeline

__all__ = ["render_perfetto"]

_STEP_US = 1000
_RUN_US = 900


def render_perfetto(timelines: Sequence[Timeline]) -> str:
    """Trace Event Format (JSON) of one or several orders; raises nothing."""
    events = [event for process, timeline in enumerate(timelines, 1) for event in _events(process, timeline)]
    trace = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"clock": "1 ms is one step of the order"}}
    return json.dumps(trace, separators=(",", ":")) + "\n"


def _events(process: int, timeline: Timeline) -> Iterator[dict[str, Any]]:
    title = f"{timeline.graph.name} {timeline.title}".strip() or "graph"
    yield {"ph": "M", "pid": process, "tid": 1, "name": "process_name", "args": {"name": title}}
    yield {"ph": "M", "pid": process, "tid": 1, "name": "thread_name", "args": {"name": "ops"}}
    graph, profile = timeline.graph, timeline.profile
    allocated, freed = timeline.allocated_at(), timeline.freed_after()
    yield _counter(process, 0, profile.start)
    for step, index in enumerate(timeline.order):
        op, start = graph.ops[index], (step + 1) * _STEP_US
        yield {
            "ph": "X",
            "pid": process,
            "tid": 1,
            "ts": start,
            "dur": _RUN_US,
            "name": op.name,
            "cat": op.kind or "op",
            "args": {
                "step": step,
                "allocates": [graph.buffers[buffer].name for buffer in allocated[step]],
                "frees": [graph.buffers[buffer].name for buffer in freed[step]],
                "workspace": op.workspace,
            },
        }
        yield _counter(process, start, profile.step_peaks[step])
        yield _counter(process, start + _RUN_US, profile.levels[step])


def _counter(process: int, time: int, live_bytes: int) -> dict[str, Any]:
    return {"ph": "C", "pid": process, "ts": time, "name": "live bytes", "args": {"bytes": live_bytes}}

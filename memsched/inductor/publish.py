"""Where the reports of plans go: a `Sink`.  Of a graph that code is generated for, into three places:

    V.graph, planned ──┬──> memsched.reports()
                       ├──> TORCH_TRACE    memsched_plan_backward_0 (json), memsched_report_backward_0 (text)
                       └──> generated code  # memsched: backward 0: 158 ops, peak ...
                                            restore_report('{"name": "backward 0", ...}')

A graph that Inductor loads from a cache is not planned again, and no pass runs.  But its generated module is executed,
whichever cache it came from, and then tells its report itself.  Names, bytes and counts travel that way; the graph,
the order and the refusals do not.  Where memsched is missing, the code does without.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator

from torch._inductor.codegen.wrapper import PythonWrapperCodegen
from torch._inductor.virtualized import V
from torch._logging import trace_structured

from memsched.core.peak import live_buffers, memory_profile
from memsched.files.plan_file import report_to_plan
from memsched.inductor.failures import reason_of
from memsched.records.origin import Origin
from memsched.records.published import add_report, expect_signature
from memsched.records.report import GraphReport

__all__ = ["SIGNATURE", "Sink", "publish", "sign"]

Sink = Callable[[GraphReport], None]
"""Takes the report of the graph that Inductor is compiling: `publish` when code is generated; the `append` of a list
when somebody only asked for the plan, which then leaves no trace."""

log = logging.getLogger("memsched")

SIGNATURE = "# memsched: "
"""How the line of generated code begins that names the graph, before a colon."""


def publish(report: GraphReport) -> None:
    """Keep the report for `memsched.reports()`, trace it, and sign the generated code; a failure here costs no plan."""
    add_report(report)
    log.info("memsched: %s", report)
    try:
        _trace(report)
        sign(report)
    except Exception as error:
        log.warning("memsched: the report of %s is not published completely (%s)", report.name, reason_of(error))


# ---- for tlparse


def _trace(report: GraphReport) -> None:
    """Two artefacts in the structured trace; the payloads are only made when somebody traces."""
    name = report.name.replace(" ", "_")
    if report.graph is not None and report.schedule is not None:
        trace_structured(
            "artifact",
            metadata_fn=lambda: {"name": f"memsched_plan_{name}", "encoding": "json"},
            payload_fn=lambda: json.dumps(report_to_plan(report)),
        )
    trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": f"memsched_report_{name}", "encoding": "string"},
        payload_fn=lambda: "\n".join(_text(report)),
    )


def _text(report: GraphReport) -> Iterator[str]:
    """The report, what is live at the peak, and the order."""
    yield str(report)
    graph, schedule = report.graph, report.schedule
    if graph is None or schedule is None:
        return
    profile = memory_profile(graph, schedule.order)
    yield f"\nlive at the peak, step {profile.peak_step} ({graph.ops[schedule.order[profile.peak_step]].name}), bytes"
    live = [graph.buffers[index] for index in live_buffers(graph, schedule.order, profile.peak_step)]
    for buffer in sorted(live, key=lambda buffer: (-buffer.size, buffer.name)):
        origin = report.origins.get(buffer.name, Origin())
        yield f"{buffer.size:>16,}  {buffer.name}  {origin.module}  {origin.source}".rstrip()
    yield "\nthe order: bytes live while each op runs"
    for step, op in enumerate(schedule.order):
        yield f"{profile.step_peaks[step]:>16,}  {step:>5}  {graph.ops[op].name}"
    if report.refusals:
        yield "\nrefused fusions: bytes above the plan"
    for refusal in report.refusals:
        yield f"{refusal.price:>16,}  {', '.join(refusal.ops)} with {', '.join(refusal.other)}"


# ---- for whoever loads the code from a cache


def sign(report: GraphReport) -> None:
    """Write the report into the head of the module that Inductor is about to generate, if that is Python."""
    wrapper = V.graph.wrapper_code
    if type(wrapper) is not PythonWrapperCodegen:
        return  # C++, or a subgraph inside of another module
    # The planner takes no time in a process that loads the plan.
    told = dataclasses.replace(report, seconds=0.0, refusals=())
    text = json.dumps(told.to_json(), sort_keys=True)
    expect_signature(text)
    wrapper.header.writelines(
        [
            f"{SIGNATURE}{report.name}: peak {report.peak} bytes, bound {report.lower_bound}",
            "try:",
            "    from memsched.records.published import restore_report",
            f"    restore_report({text!r})",
            "except ImportError:",
            "    pass",
        ]
    )

"""A file that holds a plan, or a graph that gets one: what `memsched show` and `memsched explain` read.

plan with its graph            checked, never believed
plan, and the graph apart      the same
graph                          ordered now: memsched's own format, or Inductor's `reorder_for_peak_memory_debug` JSON
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from memsched.check.certificate import check_certificate
from memsched.check.error import CheckError
from memsched.check.plan import check_plan
from memsched.core.graph import Graph
from memsched.core.result import Options, Schedule, Status
from memsched.files.fields import FormatError
from memsched.files.graph_file import graph_of, read_graph
from memsched.files.json_file import read_json
from memsched.files.plan_file import PLAN_FORMAT, Plan, plan_from_json
from memsched.records.fusion import RefusedFusion
from memsched.records.origin import Origin
from memsched.search.solver import solve

__all__ = ["PlannedFile", "plan_files", "read_planned", "read_plans"]


@dataclass(frozen=True)
class PlannedFile:
    """A graph with its order; proved: whether the certificate of the bound could be followed."""

    graph: Graph
    schedule: Schedule
    proved: bool
    origins: Mapping[str, Origin]
    refusals: tuple[RefusedFusion, ...]


def read_planned(path: str, graph_path: str | None = None, options: Options | None = None) -> PlannedFile:
    """The plan in `path`, of the graph in `graph_path` or in the file itself; a graph in `path` is ordered.

    Raises:
        FormatError: one line with the file and the fault, also when the plan is wrong.
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != PLAN_FORMAT:
        return _ordered(graph_of(path, data), options or Options())
    plan, named = plan_from_json(path, data), read_graph(graph_path) if graph_path else None
    try:
        return _checked(plan, named)
    except (FormatError, CheckError) as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from None


def read_plans(path: str) -> list[PlannedFile]:
    """The plan in a file, or every plan of a folder; raises FormatError as `read_planned`."""
    return [read_planned(file) for file in plan_files(path)]


def plan_files(path: str | os.PathLike[str]) -> list[str]:
    """`path`; or, where it is a folder of `memsched explain --plans`, its plans, by name.

    Raises:
        FormatError: a folder without a plan.
    """
    if not os.path.isdir(path):
        return [os.fspath(path)]
    found = sorted(name for name in os.listdir(path) if name.endswith(".plan.json"))
    if not found:
        raise FormatError(f"{os.fspath(path)}: there is no .plan.json in this folder (memsched explain --plans FOLDER)")
    return [os.path.join(path, name) for name in found]


def _ordered(graph: Graph, options: Options) -> PlannedFile:
    schedule = solve(graph, options)
    proved = check_certificate(graph, schedule.certificate, schedule.lower_bound)
    return PlannedFile(graph, schedule, proved, {}, ())


def _checked(plan: Plan, named: Graph | None) -> PlannedFile:
    graph = named or plan.embedded_graph()
    if graph is None:
        raise FormatError("the plan holds no graph, and --graph GRAPH is missing")
    proved = check_plan(graph, plan)
    schedule = Schedule(
        tuple(plan.order), plan.peak, plan.lower_bound, Status(plan.status), plan.method, 0.0, plan.certificate
    )
    return PlannedFile(graph, schedule, proved, plan.embedded_origins(), plan.embedded_refusals())

"""`memsched verify GRAPH PLAN`: recompute the peak and check the certificate, without torch and without a solver.

A file of `solve --parallel -o` is checked too: the moment is possible, its bytes are right, the proof holds.
"""

from __future__ import annotations

import argparse
import sys

from memsched.check.error import CheckError
from memsched.check.execution import check_worst_case_file
from memsched.check.plan import check_plan
from memsched.cli.command import EXIT_CLAIMED, EXIT_DONE, EXIT_NOT_VERIFIED, Command
from memsched.cli.text import one_line
from memsched.core.graph import Graph
from memsched.core.result import Certificate, Status
from memsched.files.graph_file import read_graph
from memsched.files.json_file import read_json
from memsched.files.plan_file import plan_from_json
from memsched.files.worst_case_file import WORST_CASE_FORMAT, WorstCaseFile, read_worst_case

__all__ = ["COMMANDS", "method_of"]


def _declare_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", metavar="GRAPH")
    parser.add_argument("plan", metavar="PLAN", help="memsched-plan/1, as written by `solve -o`")
    parser.add_argument("--proved", action="store_true", help="a bound that is only claimed is a failure")


def _verify(arguments: argparse.Namespace) -> int:
    graph = read_graph(arguments.graph)
    data = read_json(arguments.plan)
    if isinstance(data, dict) and data.get("format") == WORST_CASE_FORMAT:
        return _verify_worst_case(graph, read_worst_case(arguments.plan, data), arguments)
    plan = plan_from_json(arguments.plan, data)
    try:
        proved = check_plan(graph, plan)
    except CheckError as error:
        return _refused(arguments, error)
    how = "proved" if proved else f"claimed by {method_of(plan.certificate)}, not re-checkable"
    print(f"order: valid, {len(plan.order)} ops")
    print(f"peak: {plan.peak} bytes, recomputed")
    print(f"lower bound: {plan.lower_bound} bytes, {how}")
    print(f"status: {plan.status}" + (f", {how}" if plan.status == Status.OPTIMAL.value else ""))
    return _exit_code(proved, arguments)


def _verify_worst_case(graph: Graph, file: WorstCaseFile, arguments: argparse.Namespace) -> int:
    try:
        proved = check_worst_case_file(graph, file)
    except CheckError as error:
        return _refused(arguments, error)
    how = "proved" if proved else f"claimed by {file.worst.method}, not re-checkable"
    running = len(file.worst.execution.running)
    print(f"execution: possible, {running} ops run at once" + (f", {len(file.edges)} edges kept" if file.edges else ""))
    print(f"held: {file.worst.held} bytes, recomputed")
    print(f"bound: {file.worst.bound} bytes, {how}")
    print(f"status: {file.worst.status.value}")
    return _exit_code(proved, arguments)


def _refused(arguments: argparse.Namespace, error: CheckError) -> int:
    print(f"memsched: {arguments.plan}: {one_line(error)}", file=sys.stderr)
    return EXIT_NOT_VERIFIED


def _exit_code(proved: bool, arguments: argparse.Namespace) -> int:
    if proved:
        return EXIT_DONE
    return EXIT_NOT_VERIFIED if arguments.proved else EXIT_CLAIMED


def method_of(certificate: Certificate | None) -> str:
    """Who made the certificate."""
    return getattr(certificate, "method", "nobody" if certificate is None else "series-parallel tree")


COMMANDS = (Command("verify", "check a plan without a solver: order, peak, certificate", _declare_verify, _verify),)

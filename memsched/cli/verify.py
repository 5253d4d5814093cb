"""`memsched verify GRAPH PLAN`: recompute the peak and check the certificate, without torch and without a solver."""

from __future__ import annotations

import argparse
import sys

from memsched.check.error import CheckError
from memsched.check.plan import check_plan
from memsched.cli.command import EXIT_CLAIMED, EXIT_DONE, EXIT_NOT_VERIFIED, Command
from memsched.cli.text import one_line
from memsched.core.result import Certificate, Status
from memsched.files.graph_file import read_graph
from memsched.files.plan_file import read_plan

__all__ = ["COMMANDS", "method_of"]


def _declare_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", metavar="GRAPH")
    parser.add_argument("plan", metavar="PLAN", help="memsched-plan/1, as written by `solve -o`")
    parser.add_argument("--proved", action="store_true", help="a bound that is only claimed is a failure")


def _verify(arguments: argparse.Namespace) -> int:
    graph = read_graph(arguments.graph)
    plan = read_plan(arguments.plan)
    try:
        proved = check_plan(graph, plan)
    except CheckError as error:
        print(f"memsched: {arguments.plan}: {one_line(error)}", file=sys.stderr)
        return EXIT_NOT_VERIFIED
    how = "proved" if proved else f"claimed by {method_of(plan.certificate)}, not re-checkable"
    print(f"order: valid, {len(plan.order)} ops")
    print(f"peak: {plan.peak} bytes, recomputed")
    print(f"lower bound: {plan.lower_bound} bytes, {how}")
    print(f"status: {plan.status}" + (f", {how}" if plan.status == Status.OPTIMAL.value else ""))
    if proved:
        return EXIT_DONE
    return EXIT_NOT_VERIFIED if arguments.proved else EXIT_CLAIMED


def method_of(certificate: Certificate | None) -> str:
    """Who made the certificate."""
    return getattr(certificate, "method", "nobody" if certificate is None else "series-parallel tree")


COMMANDS = (Command("verify", "check a plan without a solver: order, peak, certificate", _declare_verify, _verify),)

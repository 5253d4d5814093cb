"""`memsched verify GRAPH PLAN`: recompute the peak and check the certificate, without torch and without a solver."""

from __future__ import annotations

import argparse
import sys

from memsched.cli.command import EXIT_DONE, EXIT_NOT_VERIFIED, Command
from memsched.cli.text import one_line
from memsched.core.check import CheckError, check_certificate, check_order
from memsched.core.graph import Graph
from memsched.core.graphio import Plan, read_graph, read_plan
from memsched.core.peak import peak_bytes
from memsched.core.result import Certificate, Status

__all__ = ["COMMANDS", "check_plan", "method_of"]


def _declare_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", metavar="GRAPH")
    parser.add_argument("plan", metavar="PLAN", help="memsched-plan/1, as written by `solve -o`")


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
    return EXIT_DONE


def check_plan(graph: Graph, plan: Plan) -> bool:
    """Whether the plan's bound is proved (else it is only claimed); raises CheckError when the plan is wrong."""
    if plan.num_ops != len(graph.ops):
        raise CheckError(f"ops: the plan has {plan.num_ops}, the graph has {len(graph.ops)}")
    if plan.graph_digest and plan.graph_digest != graph.digest:
        raise CheckError("graph_digest: the plan was made for another graph")
    check_order(graph, plan.order)
    peak = peak_bytes(graph, plan.order)
    if plan.peak != peak:
        raise CheckError(f"peak: the order needs {peak} bytes, the plan says {plan.peak}")
    if plan.lower_bound > peak:
        raise CheckError(f"lower_bound: {plan.lower_bound} is above the peak {peak}")
    if plan.status == Status.OPTIMAL.value and plan.lower_bound != peak:
        raise CheckError(f"status: optimal, but the bound {plan.lower_bound} is below the peak {peak}")
    return check_certificate(graph, plan.certificate, plan.lower_bound)


def method_of(certificate: Certificate | None) -> str:
    """Who made the certificate."""
    return getattr(certificate, "method", "nobody" if certificate is None else "series-parallel tree")


COMMANDS = (Command("verify", "check a plan without a solver: order, peak, certificate", _declare_verify, _verify),)

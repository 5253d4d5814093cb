"""`memsched show PLAN -o OUT`: a plan as a page, a memory_viz snapshot, a Perfetto trace or a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from memsched.cli.command import EXIT_DONE, Command
from memsched.cli.verify import check_plan
from memsched.core.check import CheckError
from memsched.core.graph import Graph
from memsched.core.graphio import FormatError, read_graph, read_plan
from memsched.core.peak import peak_bytes
from memsched.search.heuristics import stock_orders

__all__ = ["COMMANDS"]

_AGAINST = ("stock", "incoming", "lpmf", "bfs", "dfs", "none")


def _declare_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="memsched-plan/1; a plan of `solve -o` holds its graph")
    parser.add_argument("--graph", metavar="GRAPH", help="the graph, when the plan does not hold it")
    against = f"the order to compare with, one of {', '.join(_AGAINST)} (default: stock, the best of Inductor's four)"
    parser.add_argument("--against", choices=_AGAINST, default="stock", metavar="ORDER", help=against)
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="out.html, .pickle, .json or .csv")


def _show(arguments: argparse.Namespace) -> int:
    from memsched.report.exhibit import Exhibit
    from memsched.report.show import check_output, write_exhibit
    from memsched.report.timeline import timeline_of

    check_output(arguments.output)
    plan = read_plan(arguments.plan)
    named_graph = read_graph(arguments.graph) if arguments.graph else None
    try:
        graph = named_graph or plan.embedded_graph()
        if graph is None:
            raise FormatError("the plan holds no graph, and --graph GRAPH is missing")
        proved, origins = check_plan(graph, plan), plan.embedded_origins()
        refusals = plan.embedded_refusals()
    except (FormatError, CheckError) as error:
        raise FormatError(f"{arguments.plan}: {error}") from None
    orders = _orders_against(graph, arguments.against) | {f"memsched ({plan.method})": plan.order}
    timelines = [timeline_of(graph, order, title, origins) for title, order in orders.items()]
    bound = None if plan.certificate is None else plan.lower_bound
    write_exhibit(arguments.output, Exhibit(timelines, bound, plan.certificate, proved, refusals))
    return EXIT_DONE


def _orders_against(graph: Graph, name: str) -> dict[str, Sequence[int]]:
    """The order that a plan is shown against, by its title: one of Inductor's, the best of them, or nothing."""
    if name == "none":
        return {}
    if name == "incoming":
        return {"stock (incoming)": graph.topological_order}
    orders = stock_orders(graph)
    if name == "stock":
        name = min(orders, key=lambda candidate: peak_bytes(graph, orders[candidate]))
    return {f"stock ({name})": orders[name]}


COMMANDS = (Command("show", "a plan as a page, a memory_viz snapshot, a trace or a table", _declare_show, _show),)

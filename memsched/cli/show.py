"""`memsched show PLAN -o OUT`: a plan as a page, a memory_viz snapshot, a Perfetto trace or a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from memsched.cli.command import EXIT_DONE, Command
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.records.step import MeasuredCurve
from memsched.search.orders.inductor import stock_orders

__all__ = ["COMMANDS"]

_AGAINST = ("stock", "incoming", "lpmf", "bfs", "dfs", "none")


def _declare_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "plan", metavar="PLAN", help="memsched-plan/1 with its graph, or a graph, which is ordered first"
    )
    parser.add_argument("--graph", metavar="GRAPH", help="the graph, when the plan does not hold it")
    against = f"the order to compare with, one of {', '.join(_AGAINST)} (default: stock, the best of Inductor's four)"
    parser.add_argument("--against", choices=_AGAINST, default="stock", metavar="ORDER", help=against)
    measured = "a snapshot of torch.cuda.memory._dump_snapshot, drawn over the plan (only plain types are unpickled)"
    parser.add_argument("--measured", metavar="SNAPSHOT", help=measured)
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="out.html, .pickle, .json or .csv")


def _show(arguments: argparse.Namespace) -> int:
    from memsched.render.exhibit import Exhibit
    from memsched.render.planned_file import read_planned
    from memsched.render.show import check_output, write_exhibit
    from memsched.render.timeline import timeline_of

    check_output(arguments.output)
    found = read_planned(arguments.plan, arguments.graph)
    graph, schedule = found.graph, found.schedule
    orders = _orders_against(graph, arguments.against) | {f"memsched ({schedule.method})": schedule.order}
    timelines = [timeline_of(graph, order, title, found.origins) for title, order in orders.items()]
    bound = None if schedule.certificate is None else schedule.lower_bound
    measured = _measured(arguments.measured, graph.start_bytes, len(graph.ops)) if arguments.measured else None
    write_exhibit(
        arguments.output, Exhibit(timelines, bound, schedule.certificate, found.proved, found.refusals, measured)
    )
    return EXIT_DONE


def _measured(path: str, start: int, steps: int) -> MeasuredCurve:
    from memsched.render.recorded import read_recorded

    return read_recorded(path, start, steps)


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

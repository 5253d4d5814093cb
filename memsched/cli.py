"""The command line: `memsched solve | verify | show | tree`, also as `python -m memsched`.

    memsched solve GRAPH [--time-limit S] [--method M] [--json] [-o PLAN]    order a graph; print or write the plan
    memsched verify GRAPH PLAN                                               recompute the peak, check the certificate
    memsched show PLAN [--graph GRAPH] -o out.html|.pickle|.json|.csv        a page, a snapshot, a trace, a table
    memsched tree GRAPH [-o tree.svg] [--segments] [--json]                  the series-parallel decomposition
    memsched explain | check MODULE:FUNCTION, memsched diff A B              see `memsched.questions`

A command is one small function `(arguments) -> exit code` and one that declares its arguments; `COMMANDS` lists them.
Nothing here imports torch, and `verify` needs no solver.

Exit codes: 0 done, 1 a peak rose (`check`), 2 bad input (one line on stderr that names the file and the first
offending field), 3 verification failed.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from memsched import __version__
from memsched.core.check import CheckError, check_certificate, check_order
from memsched.core.graph import Graph, GraphError
from memsched.core.graphio import FormatError, Plan, atomic_write, plan_to_json, read_graph, read_plan, write_json
from memsched.core.peak import live_buffers, memory_profile, peak_bytes
from memsched.core.result import (
    Certificate,
    CutCertificate,
    EndpointCertificate,
    ForcingCertificate,
    Options,
    Schedule,
    Status,
)
from memsched.core.sizes import InputError
from memsched.questions import declare_check, declare_diff, declare_explain, run_check, run_diff, run_explain
from memsched.search.heuristics import stock_orders
from memsched.search.solver import METHODS, SolverError, solve
from memsched.series_parallel.recognize import Decomposition, recognize
from memsched.series_parallel.tree import to_json

__all__ = ["COMMANDS", "EXIT_BAD_INPUT", "EXIT_DONE", "EXIT_NOT_VERIFIED", "Command", "main"]

EXIT_DONE, EXIT_BAD_INPUT, EXIT_NOT_VERIFIED = 0, 2, 3

_LARGEST_BUFFERS_SHOWN = 5

_AGAINST = ("stock", "incoming", "lpmf", "bfs", "dfs", "none")


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: `declare` adds its arguments to a parser, `run` does it and returns the exit code."""

    name: str
    summary: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.  Bad input is one line on stderr, never a traceback."""
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may not fit the terminal's encoding
    try:
        exit_code: int = arguments.run(arguments)
        sys.stdout.flush()
    except (FormatError, GraphError, SolverError, CheckError, InputError) as error:
        print(f"memsched: {_one_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # the reader of our output has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        print(f"memsched: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="memsched", description="Order a compiled graph for least peak memory.")
    parser.add_argument("--version", action="version", version=f"memsched {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = commands.add_parser(command.name, help=command.summary, description=command.summary)
        command.declare(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# ---- solve


def _declare_solve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", metavar="GRAPH", help="memsched-graph/1 or Inductor's debug JSON, optionally gzip")
    parser.add_argument("--time-limit", type=_seconds, default=5.0, metavar="S", help="seconds (default: 5)")
    parser.add_argument("--method", choices=METHODS, default="auto", help="default: auto")
    parser.add_argument("--json", action="store_true", help="print one memsched-plan/1 object instead of tables")
    parser.add_argument("-o", "--output", metavar="PLAN", help="also write the plan to this file")


def _solve(arguments: argparse.Namespace) -> int:
    graph = read_graph(arguments.graph)
    schedule = solve(graph, Options(time_limit_s=arguments.time_limit, method=arguments.method))
    if arguments.output:
        write_json(arguments.output, plan_to_json(graph, schedule, embed_graph=True))  # for `show`
    if arguments.json:
        print(json.dumps(plan_to_json(graph, schedule), separators=(",", ":")))
    else:
        _print_schedule(graph, schedule)
    return EXIT_DONE


def _seconds(text: str) -> float:
    """A time limit; raises ArgumentTypeError unless it is a finite number of seconds, at least 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _print_schedule(graph: Graph, schedule: Schedule) -> None:
    rows = [
        ("graph", graph.name or "(no name)", f"{len(graph.ops)} ops, {len(graph.buffers)} buffers"),
        *(("stock order", name, _bytes(peak)) for name, peak in _stock_peaks(graph).items()),
        ("peak", schedule.method, _bytes(schedule.peak)),
        ("lower bound", _why(graph, schedule.certificate), _bytes(schedule.lower_bound)),
        ("gap", schedule.status.value, f"{schedule.gap:.3%}"),
        ("time", "", f"{schedule.seconds:.2f} s"),
    ]
    if schedule.note:
        rows.append(("note", schedule.note, ""))
    _print_table(rows)
    print()
    _print_table(_rows_at_peak(graph, schedule.order))


def _stock_peaks(graph: Graph) -> dict[str, int]:
    """Peaks of Inductor's four candidates under our model; bytes."""
    return {name: peak_bytes(graph, order) for name, order in stock_orders(graph).items()}


def _why(graph: Graph, certificate: Certificate | None) -> str:
    """What enforces the bound, in a few words."""
    match certificate:
        case None:
            return "nothing proved"
        case EndpointCertificate():
            return "live at the start" if certificate.bound == graph.start_bytes else "live at the end"
        case CutCertificate():
            return f"enforced at {graph.ops[certificate.op].name}"
        case ForcingCertificate():
            return f"lower: {len(certificate.steps) - 1} forced precedences, then no way"
        case _:
            return f"by {_method_of(certificate)}"


def _rows_at_peak(graph: Graph, order: Sequence[int]) -> list[tuple[str, str, str]]:
    """The largest buffers that are live when the order peaks."""
    profile = memory_profile(graph, order)
    step = profile.peak_step
    live = sorted(live_buffers(graph, order, step), key=lambda index: (-graph.buffers[index].size, index))
    rows = [("at the peak", f"step {step}, {graph.ops[order[step]].name}", _bytes(profile.peak))]
    for index in live[:_LARGEST_BUFFERS_SHOWN]:
        buffer = graph.buffers[index]
        origin = "an input" if buffer.producer is None else f"from {graph.ops[buffer.producer].name}"
        rows.append((buffer.name, origin + (", kept" if buffer.kept else ""), _bytes(buffer.size)))
    if len(live) > _LARGEST_BUFFERS_SHOWN:
        rest = sum(graph.buffers[index].size for index in live[_LARGEST_BUFFERS_SHOWN:])
        rows.append((f"{len(live) - _LARGEST_BUFFERS_SHOWN} more", "", _bytes(rest)))
    return rows


# ---- verify


def _declare_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", metavar="GRAPH")
    parser.add_argument("plan", metavar="PLAN", help="memsched-plan/1, as written by `solve -o`")


def _verify(arguments: argparse.Namespace) -> int:
    graph = read_graph(arguments.graph)
    plan = read_plan(arguments.plan)
    try:
        proved = _check_plan(graph, plan)
    except CheckError as error:
        print(f"memsched: {arguments.plan}: {_one_line(error)}", file=sys.stderr)
        return EXIT_NOT_VERIFIED
    how = "proved" if proved else f"claimed by {_method_of(plan.certificate)}, not re-checkable"
    print(f"order: valid, {len(plan.order)} ops")
    print(f"peak: {plan.peak} bytes, recomputed")
    print(f"lower bound: {plan.lower_bound} bytes, {how}")
    print(f"status: {plan.status}" + (f", {how}" if plan.status == Status.OPTIMAL.value else ""))
    return EXIT_DONE


def _check_plan(graph: Graph, plan: Plan) -> bool:
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


# ---- show


def _declare_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="memsched-plan/1; a plan of `solve -o` holds its graph")
    parser.add_argument("--graph", metavar="GRAPH", help="the graph, when the plan does not hold it")
    against = f"the order to compare with, one of {', '.join(_AGAINST)} (default: stock, the best of Inductor's four)"
    parser.add_argument("--against", choices=_AGAINST, default="stock", metavar="ORDER", help=against)
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="out.html, .pickle, .json or .csv")


def _show(arguments: argparse.Namespace) -> int:
    from memsched.report.show import Exhibit, check_output, write_exhibit
    from memsched.report.timeline import timeline_of

    check_output(arguments.output)
    plan = read_plan(arguments.plan)
    named_graph = read_graph(arguments.graph) if arguments.graph else None
    try:
        graph = named_graph or plan.embedded_graph()
        if graph is None:
            raise FormatError("the plan holds no graph, and --graph GRAPH is missing")
        proved, origins = _check_plan(graph, plan), plan.embedded_origins()
    except (FormatError, CheckError) as error:
        raise FormatError(f"{arguments.plan}: {error}") from None
    orders = _orders_against(graph, arguments.against) | {f"memsched ({plan.method})": plan.order}
    timelines = [timeline_of(graph, order, title, origins) for title, order in orders.items()]
    bound = None if plan.certificate is None else plan.lower_bound
    write_exhibit(arguments.output, Exhibit(timelines, bound, plan.certificate, proved))
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


def _method_of(certificate: Certificate | None) -> str:
    return getattr(certificate, "method", "nobody" if certificate is None else "series-parallel tree")


# ---- tree


def _declare_tree(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", metavar="GRAPH")
    parser.add_argument("--segments", action="store_true", help="add the hills and valleys of every node")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("-o", "--output", metavar="SVG", help="draw to this file instead of printing text")
    form.add_argument("--json", action="store_true", help="print the tree, or the four ops that forbid one")


def _tree(arguments: argparse.Namespace) -> int:
    graph = read_graph(arguments.graph)
    if arguments.json:
        print(json.dumps(_tree_json(graph), separators=(",", ":")))
        return EXIT_DONE
    from memsched.report.tree import render_svg, render_text

    if arguments.output:
        atomic_write(arguments.output, render_svg(graph, arguments.segments).encode(errors="backslashreplace"))
    else:
        print(render_text(graph, arguments.segments), end="")
    return EXIT_DONE


def _tree_json(graph: Graph) -> dict[str, object]:
    """The decomposition in the form of `TreeCertificate.tree`, or the induced N a -> c, a -> d, b -> d."""
    found = recognize(graph)
    answer: dict[str, object] = {"name": graph.name, "ops": len(graph.ops)}
    if isinstance(found, Decomposition):
        return answer | {"series_parallel": True, "tree": to_json(found.tree)}
    return answer | {"series_parallel": False, "induced_n": asdict(found)}


# ---- text


def _bytes(count: int) -> str:
    return f"{count:,} bytes"


def _printable(text: str) -> str:
    """`text` with what a terminal must not be sent (line breaks, escapes, lone surrogates) written out."""
    return text if text.isprintable() else repr(text)[1:-1]


def _print_table(rows: Sequence[tuple[str, str, str]]) -> None:
    """Three columns, the last one to the right: by rich when it is installed, else in plain text."""
    rows = [(_printable(first), _printable(second), _printable(third)) for first, second, third in rows]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for first, second, third in rows:
            print(f"{first:<{widths[0]}}  {second:<{widths[1]}}  {third:>{widths[2]}}".rstrip())
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: names in brackets are not markup
    Console().print(table)


COMMANDS: tuple[Command, ...] = (
    Command("check", "a gate for CI: exit 1 when a peak of a model rose", declare_check, run_check),
    Command("diff", "what changed between two baselines, explanations or plans", declare_diff, run_diff),
    Command("explain", "why a step of a model peaks where it does, before it runs", declare_explain, run_explain),
    Command("solve", "order a graph for least peak memory", _declare_solve, _solve),
    Command("show", "a plan as a page, a memory_viz snapshot, a trace or a table", _declare_show, _show),
    Command("tree", "the series-parallel decomposition of a graph, or why it has none", _declare_tree, _tree),
    Command("verify", "check a plan without a solver: order, peak, certificate", _declare_verify, _verify),
)
"""Every subcommand, in the order of the help text."""

"""`memsched solve GRAPH`: order a graph for least peak memory; print tables or one plan, or write the plan.

With `--parallel` it is the worst case of several ops at once instead (`memsched.cli.parallel`).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace

from memsched.cli.command import EXIT_DONE, EXIT_INTERRUPTED, Command
from memsched.cli.parallel import declare_parallel, solve_parallel
from memsched.cli.text import byte_count, print_table
from memsched.cli.verify import method_of
from memsched.core.graph import Graph
from memsched.core.peak import live_buffers, memory_profile, peak_bytes
from memsched.core.result import (
    Certificate,
    CutCertificate,
    EndpointCertificate,
    ForcingCertificate,
    Options,
    Schedule,
)
from memsched.core.sizes import InputError
from memsched.files.graph_file import read_graph
from memsched.files.json_file import write_json
from memsched.files.plan_file import plan_to_json
from memsched.search.budget import repeatable
from memsched.search.orders.inductor import stock_orders
from memsched.search.solver import METHODS, solve

__all__ = ["COMMANDS"]

_LARGEST_BUFFERS_SHOWN = 5


def _declare_solve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", metavar="GRAPH", help="memsched-graph/1 or Inductor's debug JSON, optionally gzip")
    parser.add_argument("--time-limit", type=_seconds, default=5.0, metavar="S", help="CPU seconds (default: 5)")
    parser.add_argument("--work-limit", type=int, metavar="N", help="units of work, instead of what the time buys")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of local search (default: 0)")
    parser.add_argument("--method", choices=METHODS, default="auto", help="default: auto")
    parser.add_argument("--json", action="store_true", help="print one memsched-plan/1 object instead of tables")
    declare_parallel(parser)
    parser.add_argument("-o", "--output", metavar="PLAN", help="also write the plan to this file")


def _solve(arguments: argparse.Namespace) -> int:
    graph = read_graph(arguments.graph)
    limits = Options(
        arguments.time_limit, arguments.work_limit, arguments.seed, method=arguments.method, answer_interrupted=True
    )
    if arguments.parallel is not None:
        return solve_parallel(graph, replace(limits, answer_interrupted=False), arguments)  # a part is no answer
    if arguments.limit is not None:
        raise InputError("--limit needs --parallel: an order has one peak, and no edges to choose")
    schedule = solve(graph, repeatable(limits))
    if arguments.output:
        write_json(arguments.output, plan_to_json(graph, schedule, embed_graph=True))  # for `show`
    if arguments.json:
        print(json.dumps(plan_to_json(graph, schedule), separators=(",", ":")))
    else:
        _print_schedule(graph, schedule)
    return EXIT_INTERRUPTED if schedule.interrupted else EXIT_DONE


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
        *(("stock order", name, byte_count(peak)) for name, peak in _stock_peaks(graph).items()),
        ("peak", schedule.method, byte_count(schedule.peak)),
        ("lower bound", _why(graph, schedule.certificate), byte_count(schedule.lower_bound)),
        ("gap", schedule.status.value, f"{schedule.gap:.3%}"),
        ("time", "", f"{schedule.seconds:.2f} s"),
    ]
    if schedule.note:
        rows.append(("note", schedule.note, ""))
    print_table(rows)
    print()
    print_table(_rows_at_peak(graph, schedule.order))


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
            return f"by {method_of(certificate)}"


def _rows_at_peak(graph: Graph, order: Sequence[int]) -> list[tuple[str, str, str]]:
    """The largest buffers that are live when the order peaks."""
    profile = memory_profile(graph, order)
    step = profile.peak_step
    live = sorted(live_buffers(graph, order, step), key=lambda index: (-graph.buffers[index].size, index))
    rows = [("at the peak", f"step {step}, {graph.ops[order[step]].name}", byte_count(profile.peak))]
    for index in live[:_LARGEST_BUFFERS_SHOWN]:
        buffer = graph.buffers[index]
        origin = "an input" if buffer.producer is None else f"from {graph.ops[buffer.producer].name}"
        rows.append((buffer.name, origin + (", kept" if buffer.kept else ""), byte_count(buffer.size)))
    if len(live) > _LARGEST_BUFFERS_SHOWN:
        rest = sum(graph.buffers[index].size for index in live[_LARGEST_BUFFERS_SHOWN:])
        rows.append((f"{len(live) - _LARGEST_BUFFERS_SHOWN} more", "", byte_count(rest)))
    return rows


COMMANDS = (Command("solve", "order a graph for least peak memory", _declare_solve, _solve),)

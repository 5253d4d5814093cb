"""`memsched solve GRAPH --parallel N [--limit BYTES]`: what a graph may hold when several of its ops run at once.

    memsched solve graph.json --parallel 2                     the most bytes of any execution with two ops at once
    memsched solve graph.json --parallel any --limit 1.25x     edges that keep all executions under 1.25 of the order

Edges and worst case go to a file with `-o`, which `memsched verify` follows.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence

from memsched.cli.command import EXIT_DONE, EXIT_ROSE
from memsched.cli.text import byte_count, print_table
from memsched.core.execution import WorstCase
from memsched.core.graph import Graph
from memsched.core.result import Options, Schedule
from memsched.core.sizes import InputError, parse_bytes
from memsched.files.json_file import write_json
from memsched.files.worst_case_file import worst_case_to_json
from memsched.search.budget import repeatable
from memsched.search.parallel.limit import Limited, limiting_edges
from memsched.search.parallel.worst import worst_case
from memsched.search.solver import solve

__all__ = ["declare_parallel", "solve_parallel"]

_OPS_SHOWN = 6


def declare_parallel(parser: argparse.ArgumentParser) -> None:
    """Add `--parallel` and `--limit`."""
    parser.add_argument(
        "--parallel",
        type=_number_of_ops,
        metavar="N|any",
        help="the worst case over all executions with at most N ops at once, instead of an order",
    )
    parser.add_argument(
        "--limit",
        metavar="SIZE",
        help="with --parallel: edges that keep every execution under 24GiB, or 1.25x the order",
    )


def _number_of_ops(text: str) -> float:
    """N, or infinity for any number; raises ArgumentTypeError."""
    if text == "any":
        return math.inf
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of ops: 1, 2, ... or any")
    return int(text)


def solve_parallel(graph: Graph, limits: Options, arguments: argparse.Namespace) -> int:
    """Print, and write, the worst case; with a limit the edges that keep it.  Exit code 1 when nothing keeps it."""
    parallel = None if arguments.parallel == math.inf else arguments.parallel
    schedule = solve(graph, repeatable(limits))
    worst = worst_case(graph, parallel, limits.time_limit_s)
    limited, limit = None, None
    if arguments.limit is not None:
        limit = _limit(arguments.limit, schedule.peak)
        if limit < schedule.peak:
            print(_below_the_order(limit, schedule), file=sys.stderr if arguments.json else sys.stdout)
            return EXIT_ROSE
        limited = limiting_edges(graph, schedule.order, limit, parallel, limits.time_limit_s)
    data = worst_case_to_json(graph, worst)
    if limited is not None:
        data = worst_case_to_json(graph, limited.worst, limit, limited.edges)
    if arguments.output:
        write_json(arguments.output, data)
    if arguments.json:
        print(json.dumps(data, separators=(",", ":")))
    else:
        print_table(_rows(graph, schedule, worst))
        if limited is not None:
            print()
            print_table(_rows_of_edges(graph, limited))
    return EXIT_DONE


def _limit(text: str, peak: int) -> int:
    """Bytes of a size, or of a multiple of the order's peak; raises InputError."""
    if not text.endswith("x"):
        return parse_bytes(text)
    try:
        factor = float(text[:-1])
    except ValueError:
        factor = math.nan
    if not 0 < factor < 1e6:
        raise InputError(f"--limit: {text!r} is not a size, nor a multiple of the order's peak such as 1.25x")
    return int(peak * factor)


def _below_the_order(limit: int, schedule: Schedule) -> str:
    if limit < schedule.lower_bound:
        return f"no order stays under {byte_count(limit)}, even one op at a time: the bound is {schedule.lower_bound:,}"
    return f"the best order found needs {byte_count(schedule.peak)}, one op at a time; the limit is {byte_count(limit)}"


def _rows(graph: Graph, schedule: Schedule, worst: WorstCase) -> list[tuple[str, str, str]]:
    running = worst.execution.running
    ratio = worst.held / schedule.peak if schedule.peak else 1.0
    proof = "proved by a minimum cut" if worst.certificate.bound == worst.bound else "by search"
    rows = [
        ("graph", graph.name or "(no name)", f"{len(graph.ops)} ops, {len(graph.buffers)} buffers"),
        ("one at a time", f"best order, {schedule.status.value}", byte_count(schedule.peak)),
        ("worst case", f"{_at_once(worst.parallel)}, {ratio:.2f} of the order", byte_count(worst.held)),
        ("bound", proof, byte_count(worst.bound)),
        ("gap", worst.status.value, f"{worst.bound / worst.held - 1 if worst.held else 0:.3%}"),
        ("running then", _names(graph, running), f"{len(running)} ops"),
    ]
    return rows + ([("note", worst.note, "")] if worst.note else [])


def _rows_of_edges(graph: Graph, limited: Limited) -> list[tuple[str, str, str]]:
    longer = limited.critical_path / limited.critical_path_before if limited.critical_path_before else 1.0
    return [
        ("with edges", f"worst case, {limited.worst.status.value}", byte_count(limited.worst.held)),
        ("bound", "no execution exceeds it", byte_count(limited.worst.bound)),
        ("edges", "op waits for another", str(len(limited.edges))),
        ("longest path", f"{longer:.2f} of what it was, by bytes that ops touch", byte_count(limited.critical_path)),
        *(("", f"{graph.ops[after].name} waits for {graph.ops[before].name}", "") for before, after in limited.edges),
    ]


def _at_once(parallel: int | None) -> str:
    return "any number of ops at once" if parallel is None else f"at most {parallel} ops at once"


def _names(graph: Graph, ops: Sequence[int]) -> str:
    shown = ", ".join(graph.ops[op].name for op in ops[:_OPS_SHOWN])
    return shown + (f" and {len(ops) - _OPS_SHOWN} more" if len(ops) > _OPS_SHOWN else "")

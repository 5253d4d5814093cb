"""What captured graphs may hold when several ops run at once: `python -m bench parallel [DIR] [--every 3]`.

    graph                            ops   order      2 ops   4 ops   any    (times the best order's peak)
    gpt_ac.bwd.postfusion            157   25.7 MB    2.15    2.29    2.60

Every third captured graph, at most 2, 4 and any number of ops at once: the most bytes found, over the peak of the best
order, and the proved bound.  Rows go to `bench/results/parallel.json`, the table between markers of `docs/parallel.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.paths import DOCS, INSTANCES, RESULTS
from bench.report.readme import replace_block
from memsched.check.execution import check_worst_case
from memsched.core.result import Options
from memsched.files.graph_file import read_graph
from memsched.files.json_file import atomic_write
from memsched.search.budget import repeatable
from memsched.search.parallel.limit import limiting_edges
from memsched.search.parallel.worst import worst_case
from memsched.search.solver import solve

ROWS = RESULTS / "parallel.json"
PAGE = DOCS / "parallel.md"
PARALLEL: tuple[int | None, ...] = (2, 4, None)
LIMITS = (1.5, 1.25, 1.0)
"""Limits for which edges are looked for, in multiples of the best order's peak."""


def main(argv: Sequence[str] | None = None) -> int:
    """Bound every graph; write the rows, and the table into the page."""
    parser = argparse.ArgumentParser(prog="python -m bench parallel", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", nargs="?", default=INSTANCES / "captured")
    parser.add_argument("--every", type=int, default=3, metavar="K", help="only every K-th graph (default: 3)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="of search for each question")
    parser.add_argument("--no-write", action="store_true", help="only print")
    arguments = parser.parse_args(argv)
    if arguments.every < 1:
        print(f"bench parallel: --every {arguments.every} is below 1", file=sys.stderr)
        return 2
    rows = []
    for path in sorted(arguments.folder.glob("*.json.gz"))[:: arguments.every]:
        row = _row(path, arguments.seconds)
        rows.append(row)
        print(_line(row), file=sys.stderr, flush=True)
    if not rows:
        print(f"{arguments.folder}: no graph files", file=sys.stderr)
        return 2
    print(table(rows))
    if not arguments.no_write:
        atomic_write(ROWS, ("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n").encode())
        atomic_write(PAGE, replace_block(PAGE.read_text(), "parallel", table(rows)).encode())
    return 0


def _row(path: Path, seconds: float) -> dict[str, Any]:
    graph = read_graph(path)
    started = time.process_time()
    schedule = solve(graph, repeatable(Options(time_limit_s=5.0)))
    row: dict[str, Any] = {"graph": path.name.removesuffix(".json.gz"), "ops": len(graph), "order": schedule.peak}
    for parallel in PARALLEL:
        worst = worst_case(graph, parallel, seconds)
        proved = check_worst_case(graph, worst)
        row[_key(parallel)] = {"held": worst.held, "bound": worst.bound, "proved": proved}
    row["edges"] = {}
    for limit in LIMITS:
        limited = limiting_edges(graph, schedule.order, int(limit * schedule.peak), None, seconds=1.0)
        row["edges"][str(limit)] = [len(limited.edges), round(limited.critical_path / limited.critical_path_before, 3)]
    row["cpu_seconds"] = round(time.process_time() - started, 1)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The summary over all rows, and the graphs in which parallel execution costs most."""
    lines = [
        "| ops at once | closed | proved without a search | of the best order, median | most |",
        "|---|---|---|---|---|",
    ]
    for parallel in PARALLEL:
        answers = [row[_key(parallel)] for row in rows]
        ratios = [row[_key(parallel)]["held"] / row["order"] for row in rows]
        closed = sum(answer["held"] == answer["bound"] for answer in answers)
        proved = sum(answer["held"] == answer["bound"] and answer["proved"] for answer in answers)
        words = f"{len(rows)} graphs: {closed} ({closed / len(rows):.0%})"
        lines.append(f"| {_key(parallel)} | {words} | {proved} | {statistics.median(ratios):.2f} | {max(ratios):.2f} |")
    lines += [
        "",
        "| limit, of the best order | edges, median | most | longest path, median | most |",
        "|---|---|---|---|---|",
    ]
    for limit in LIMITS:
        edges = [row["edges"][str(limit)] for row in rows]
        counts, paths = [count for count, _ in edges], [path for _, path in edges]
        lines.append(
            f"| {limit} | {statistics.median(counts):.0f} | {max(counts)} | "
            f"{statistics.median(paths):.2f} | {max(paths):.2f} |"
        )
    lines += ["", "| graph | ops | best order, bytes | 2 at once | 4 | any |", "|---|---|---|---|---|---|"]
    dearest = sorted(rows, key=lambda row: -row["any"]["held"] / row["order"])
    lines += [f"| {' | '.join(_cells(row))} |" for row in dearest[:12]]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    ratios = [f"{row[_key(parallel)]['held'] / row['order']:.2f}" for parallel in PARALLEL]
    return [row["graph"], str(row["ops"]), f"{row['order']:,}", *ratios]


def _line(row: dict[str, Any]) -> str:
    name, ops, *rest = _cells(row)
    return f"{name:48} {ops:>5} " + " ".join(f"{cell:>14}" for cell in rest) + f" {row['cpu_seconds']:>7} s"


def _key(parallel: int | None) -> str:
    return "any" if parallel is None else str(parallel)

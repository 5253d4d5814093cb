"""How good are the orders?  `python -m bench orders [DIR] [--time-limit 5] [--json]`, a line for every graph in DIR.

With `--methods`, the score of every method instead: peak over best, share proved optimal, time (`orders_methods.py`).

DIR holds `memsched-graph/1` files and, if known, `instances.jsonl` with the best peak (`best`) and the highest bound
(`lb`) so far for each name.  Columns: ops, stock (least peak of Inductor's four orders), best known, ours, known bound,
our bound, gap = ours / our bound - 1, status, method, seconds of wall clock and of CPU.  Bytes are those of
`memsched.core.peak`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.orders.methods import DEFAULT_METHODS, compare, score_table
from memsched.check.certificate import check_certificate
from memsched.check.order import check_order
from memsched.core.peak import peak_bytes
from memsched.core.result import Options, Status
from memsched.files.graph_file import read_graph
from memsched.search.orders.inductor import stock_orders
from memsched.search.solver import METHODS, solve

CLOSE = 0.01
"""A gap up to this counts as closed in the summary."""


@dataclass(frozen=True)
class Row:
    """One graph; peaks and bounds in bytes.  `best_known` and `known_bound` are None for a graph nobody recorded."""

    name: str
    ops: int
    stock: int
    best_known: int | None
    ours: int
    known_bound: int | None
    bound: int
    gap: float
    status: str
    proved: bool
    method: str
    seconds: float
    cpu_seconds: float
    note: str


def main(argv: Sequence[str] | None = None) -> int:
    """Solve every graph of a folder and print the table or, with --json, one object with rows and summary."""
    parser = argparse.ArgumentParser(prog="python -m bench orders", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", nargs="?", default=Path("bench/instances"))
    parser.add_argument("--time-limit", type=float, default=5.0, metavar="S")
    parser.add_argument("--work-limit", type=int, metavar="UNITS", help="instead of the units that the seconds buy")
    parser.add_argument("--method", choices=METHODS, default="auto")
    parser.add_argument("--methods", nargs="*", choices=(*DEFAULT_METHODS, *METHODS), metavar="METHOD",
                        help=f"compare methods (default of these: {' '.join(DEFAULT_METHODS)})")  # fmt: skip
    parser.add_argument("--only", default="", metavar="TEXT", help="only graphs whose name contains this")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    known = _known(arguments.folder)
    options = Options(arguments.time_limit, arguments.work_limit, method=arguments.method)
    paths = [path for path in sorted(arguments.folder.glob("*.json*")) if path.suffix != ".jsonl"]
    paths = [path for path in paths if arguments.only in path.name.split(".json")[0]]
    if arguments.methods is not None and paths:
        return _compare(paths, known, arguments)
    rows = []
    for path in paths:
        name = path.name.split(".json")[0]
        row = _row(path, name, known.get(name, {}), options)
        rows.append(row)
        if not arguments.json:
            if len(rows) == 1:
                print(_HEADER)
            print(_line(row), flush=True)
    if not rows:
        print(f"{arguments.folder}: no graph files", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "summary": _summary(rows)}, indent=1))
    else:
        for what, value in _summary(rows).items():
            print(f"{what}: {value}")
    return 0


def _compare(paths: Sequence[Path], known: dict[str, dict[str, int]], arguments: argparse.Namespace) -> int:
    """Print the score of every method."""
    best = {name: record["best"] for name, record in known.items()}
    methods = arguments.methods or DEFAULT_METHODS
    found = compare(paths, best, methods, arguments.time_limit, lambda text: print(text, file=sys.stderr, flush=True))
    if arguments.json:
        print(json.dumps({"graphs": len(paths), "scores": [asdict(score) for score in found]}, indent=1))
    else:
        print(score_table(found, len(paths)))
    return 0


def _known(folder: Path) -> dict[str, dict[str, int]]:
    """What is on record, by name."""
    path = folder / "instances.jsonl"
    if not path.exists():
        return {}
    records = (json.loads(line) for line in path.read_text().splitlines() if line.strip())
    return {record["name"]: record for record in records}


def _row(path: Path, name: str, known: dict[str, int], options: Options) -> Row:
    graph = read_graph(path)
    started = time.process_time()
    schedule = solve(graph, options)
    cpu_seconds = time.process_time() - started
    check_order(graph, schedule.order)
    assert schedule.peak == peak_bytes(graph, schedule.order)
    return Row(
        name=name,
        ops=len(graph.ops),
        stock=min(peak_bytes(graph, order) for order in stock_orders(graph).values()),
        best_known=known.get("best"),
        ours=schedule.peak,
        known_bound=known.get("lb"),
        bound=schedule.lower_bound,
        gap=schedule.gap,
        status=schedule.status.value,
        proved=check_certificate(graph, schedule.certificate, schedule.lower_bound),
        method=schedule.method,
        seconds=schedule.seconds,
        cpu_seconds=cpu_seconds,
        note=schedule.note,
    )


_HEADER = (
    f"{'graph':36} {'ops':>4} {'stock':>13} {'best known':>13} {'ours':>13} "
    f"{'known bound':>13} {'our bound':>13} {'gap':>7} {'status':9} {'bound is':8} {'method':16} {'s':>6} {'CPU s':>6}"
)


def _line(row: Row) -> str:
    return (
        f"{row.name:36} {row.ops:4} {row.stock:13,} {_number(row.best_known)} {row.ours:13,}{_mark(row)}"
        f"{_number(row.known_bound)} {row.bound:13,} {row.gap:7.2%} {row.status:9} "
        f"{'proved' if row.proved else 'claimed':8} {row.method:16} "
        f"{row.seconds:6.2f} {row.cpu_seconds:6.2f}  {row.note}"
    ).rstrip()


def _number(value: int | None) -> str:
    return f"{'?' if value is None else format(value, ','):>13}"


def _mark(row: Row) -> str:
    """ "-" where we are worse than what is known, "+" where better."""
    if row.best_known is None or row.known_bound is None:
        return " "
    if row.ours > row.best_known or row.bound < row.known_bound:
        return "-"
    return "+" if row.ours < row.best_known or row.bound > row.known_bound else " "


def _summary(rows: Sequence[Row]) -> dict[str, str]:
    judged = [row for row in rows if row.best_known is not None and row.known_bound is not None]
    return {
        "graphs": str(len(rows)),
        "optimal": _share((row.status == Status.OPTIMAL.value for row in rows), len(rows)),
        "within 1% of the bound": _share((row.gap <= CLOSE for row in rows), len(rows)),
        "below stock": _share((row.ours < row.stock for row in rows), len(rows)),
        "peak <= best known": _share((row.ours <= (row.best_known or 0) for row in judged), len(judged)),
        "bound >= known bound": _share((row.bound >= (row.known_bound or 0) for row in judged), len(judged)),
        "slowest": f"{max(row.seconds for row in rows):.2f} s, {max(row.cpu_seconds for row in rows):.2f} s of CPU",
    }


def _share(holds: Iterable[bool], total: int) -> str:
    count = sum(holds)
    return f"{count} of {total}" + (f" ({count / total:.0%})" if total else "")

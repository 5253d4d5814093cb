"""Which captured graphs are series-parallel, and how much of the others is: `python -m bench series-parallel [DIR]`.

    graphs                       series-parallel   two-terminal   ops left after reduction, median
    backward, after fusion       2 of 46           ...

*Series-parallel* is about the precedences (vertex series-parallel; transitive edges do not count).  *Ops left*: of the
reduced problem that exact search gets, when all parts that the polynomial algorithm covers were folded.  The table goes
between markers of `docs/literature.md`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.paths import DOCS, INSTANCES
from bench.report.readme import replace_block
from memsched.files.graph_file import read_graph
from memsched.files.json_file import atomic_write
from memsched.search.exact.problem import Problem
from memsched.search.exact.reduce import reduce_series_parallel
from memsched.series_parallel.answer import series_parallel_answer
from memsched.series_parallel.recognize import TwoTerminalDecomposition, recognize_two_terminal

PAGE = DOCS / "literature.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and put it into the page."""
    parser = argparse.ArgumentParser(prog="python -m bench series-parallel", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", nargs="?", default=INSTANCES / "captured")
    parser.add_argument("--no-write", action="store_true", help="only print")
    arguments = parser.parse_args(argv)
    paths = sorted(arguments.folder.glob("*.json.gz"))
    if not paths:
        print(f"{arguments.folder}: no graph files", file=sys.stderr)
        return 2
    found = table(paths)
    print(found)
    if not arguments.no_write:
        atomic_write(PAGE, replace_block(PAGE.read_text(), "series-parallel", found).encode())
    return 0


def table(paths: Sequence[Path]) -> str:
    """Counts by kind and stage of the captured graphs, whose names end in KIND.STAGE.json.gz."""
    groups: dict[tuple[str, str], list[tuple[bool, bool, float]]] = {}
    for path in paths:
        kind, stage = path.name.split(".")[-4:-2]
        groups.setdefault((kind, stage), []).append(_shape(path))
    lines = ["| captured graphs | series-parallel | two-terminal | ops left to search, median |", "|---|---|---|---|"]
    for (kind, stage), shapes in sorted(groups.items()):
        whole, terminal, left = zip(*shapes, strict=True)
        where = "before fusion" if stage == "prefusion" else "after fusion"
        lines.append(
            f"| {kind}, {where} | {sum(whole)} of {len(shapes)} | {sum(terminal)} | {statistics.median(left):.0%} |"
        )
    return "\n".join(lines)


def _shape(path: Path) -> tuple[bool, bool, float]:
    """Whether the graph is vertex series-parallel, whether it is two-terminal; the share of its ops that is left."""
    graph = read_graph(path)
    left = reduce_series_parallel(Problem.from_graph(graph))
    terminal = isinstance(recognize_two_terminal(graph), TwoTerminalDecomposition)
    return series_parallel_answer(graph).depth is not None, terminal, len(left) / len(graph)

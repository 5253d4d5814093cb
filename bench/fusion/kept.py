"""How many of stock's fusions can stay without paying for them in memory?  `python -m bench fusion-kept`

For every graph of bench/instances/ that is there before and after stock's fusion: stock's kernels are recovered
from the names of the fused ops, the planner chooses which of their fusions to keep and an order, within `SLACK` of the
best peak that is known *before* fusion.  A kernel of k ops is k - 1 fusions.

    all kept    the peak of stock's kernels in the best order that we find, over the best peak before fusion
    bound       what no order of stock's kernels undercuts, likewise: above the slack, something *must* be refused
    peak, kept  of the kernels that the planner chose, likewise

A second table tells, where not all fusions can stay, what each policy keeps: in the plan's order alone, and, when other
orders are searched, the fusions tried by their traffic, by their price, or by traffic for each byte of price.

Columns are ratios; the results, with bytes, go to bench/results/fusion_kept.json, the table to fusion_kept.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.paths import INSTANCES, RESULTS
from memsched.check.order import check_order
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Options
from memsched.files.graph_file import read_graph
from memsched.files.json_file import atomic_write
from memsched.fusion.choose import PRIORITIES, choose_fusions, num_fusions
from memsched.fusion.contract import contract, kernels_of
from memsched.search.solver import solve

__all__ = ["KEPT", "SLACK", "KeptRow", "captured_pairs", "main", "read_pair", "rows_of_table"]

SLACK, KEPT = 1.02, 0.85
"""The targets: at most this times the best peak before fusion, with at least this share of stock's fusions."""

_BEFORE, _AFTER = ".prefusion.json.gz", ".postfusion.json.gz"


@dataclass(frozen=True, slots=True)
class KeptRow:
    """One graph; bytes.  `best` is the lowest peak before fusion that is known, to us or on record."""

    name: str
    fusions: int
    kept: int
    best: int
    all_kept: int
    all_kept_bound: int
    peak: int
    traffic_lost: int
    priority: str
    seconds: float
    by_policy: dict[str, int]

    @property
    def kept_share(self) -> float:
        """Share of stock's fusions that were kept; 1 when stock made none."""
        return self.kept / self.fusions if self.fusions else 1.0

    @property
    def met(self) -> bool:
        """Whether both targets are."""
        return self.peak <= SLACK * self.best and self.kept_share >= KEPT

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        return (
            self.name,
            str(self.fusions),
            f"{self.best / 2**20:.2f}",
            f"{self.all_kept / self.best:.3f}",
            f"{self.all_kept_bound / self.best:.3f}",
            f"{self.peak / self.best:.3f}",
            f"{self.kept} ({self.kept_share:.1%})",
            "met" if self.met else "missed",
        )


_HEADER = ("graph", "fusions", "best MiB before", "all kept", "bound", "peak", "kept", f"<= {SLACK}, >= {KEPT:.0%}")


def main(argv: Sequence[str] | None = None) -> int:
    """Choose for every pair of a folder; 0 when there was one, 2 on bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench fusion-kept", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=INSTANCES, metavar="DIR")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only graphs whose name contains this; writes nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the results instead of the table")
    arguments = parser.parse_args(argv)
    names = captured_pairs(arguments.folder, arguments.only)
    if not names:
        print(f"bench fusion-kept: {arguments.folder}: no graph named *{_BEFORE}", file=sys.stderr)
        return 2
    rows = []
    for name in names:
        rows.append(_row(arguments.folder, name))
        print(" | ".join(rows[-1].cells()), file=sys.stderr, flush=True)
    record = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    if not arguments.only:
        atomic_write(RESULTS / "fusion_kept.json", record.encode())
        atomic_write(RESULTS / "fusion_kept.md", rows_of_table(rows).encode())
    print(record if arguments.json else rows_of_table(rows), end="")
    return 0


def captured_pairs(folder: Path, only: str = "") -> list[str]:
    """The names of the graphs of `folder` that are there before and after fusion."""
    names = sorted(path.name.removesuffix(_BEFORE) for path in folder.glob(f"*{_BEFORE}"))
    return [name for name in names if only in name and (folder / f"{name}{_AFTER}").exists()]


def read_pair(folder: Path, name: str) -> tuple[Graph, list[list[int]]]:
    """The graph before fusion, and stock's kernels as its ops."""
    graph = read_graph(folder / f"{name}{_BEFORE}")
    return graph, kernels_of(graph, read_graph(folder / f"{name}{_AFTER}"))


def rows_of_table(rows: Sequence[KeptRow]) -> str:
    """The table in Markdown, and a line that counts."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    met, total, kept = sum(row.met for row in rows), sum(row.fusions for row in rows), sum(row.kept for row in rows)
    lines.append(f"\n{met} of {len(rows)} graphs meet both targets; {kept} of {total} fusions are kept.")
    return "\n".join(lines) + "\n" + _policies_table(rows)


def _row(folder: Path, name: str) -> KeptRow:
    graph, wanted = read_pair(folder, name)
    options = Options(time_limit_s=60, work_limit=40_000, use_ilp=False)
    plan, everything = solve(graph, options), solve(contract(graph, wanted), options)
    best = min(plan.peak, _on_record(folder, f"{name}.prefusion") or plan.peak)
    started = time.perf_counter()
    choice = choose_fusions(graph, wanted, plan.order, int(SLACK * best))
    seconds = time.perf_counter() - started
    kernels, peak = choice.kernels, choice.peak
    by_policy = {}
    if everything.peak > SLACK * best:
        by_policy = _kept_by_policy(graph, wanted, plan.order, int(SLACK * best))
    if everything.peak <= SLACK * best:  # nothing needs to be refused
        kernels, peak = tuple(tuple(wanted[op]) for op in everything.order), everything.peak
    contracted = contract(graph, kernels)
    check_order(contracted, range(len(kernels)))
    assert peak == peak_bytes(contracted, range(len(kernels)))
    kept = num_fusions(kernels)
    lost = _traffic(contracted) - _traffic(contract(graph, wanted))
    return KeptRow(
        name,
        num_fusions(wanted),
        kept,
        best,
        everything.peak,
        everything.lower_bound,
        peak,
        lost,
        choice.priority,
        seconds,
        by_policy,
    )


def _kept_by_policy(graph: Graph, wanted: Sequence[Sequence[int]], order: Sequence[int], budget: int) -> dict[str, int]:
    """Fusions kept in the plan's order alone, and by each priority with the search for other orders."""
    kept = {"plan's order": choose_fusions(graph, wanted, order, budget, ["traffic"], room_units=0)}
    kept |= {name: choose_fusions(graph, wanted, order, budget, [name]) for name in PRIORITIES}
    return {name: num_fusions(choice.kernels) for name, choice in kept.items()}


def _policies_table(rows: Sequence[KeptRow]) -> str:
    """Fusions kept where not all can be: without the search for room, and by each priority with it."""
    policies = list(next((row.by_policy for row in rows if row.by_policy), {}))
    if not policies:
        return ""
    lines = ["\n| graph | fusions | " + " | ".join(policies) + " |", "|" + "---|" * (2 + len(policies))]
    for row in rows:
        if row.by_policy:
            cells = (row.name, row.fusions, *(row.by_policy[policy] for policy in policies))
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _traffic(graph: Graph) -> int:
    """Bytes that the kernels of a graph read and write, each buffer whole."""
    return sum(buffer.size * (len(buffer.consumers) + (buffer.producer is not None)) for buffer in graph.buffers)


def _on_record(folder: Path, name: str) -> int | None:
    path = folder / "instances.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        record = json.loads(line)
        if record["name"] == name:
            return int(record["best"])
    return None

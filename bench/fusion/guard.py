"""The guard of fusions in PyTorch 2.15 by its published rule, beside stock and memsched: `python -m bench fusion-guard`


The rule (pytorch#190344, #190777; `fusion_memory_timeline_peak_memory_increase_gb`, off by default): Inductor estimates
the peak of the order that it has before fusion; a fusion after which that order, with the region between the two nodes
sorted again, would need more than that peak plus an allowed increase is rejected; an accepted one updates the timeline.
After fusion Inductor reorders as always: the best of its four orders.

Here the rule runs on captured graphs, on the fusions that stock made (recovered from the names of the fused ops), those
that save the most traffic first, with an increase of 0: what differs from memsched is the order that is judged
(Inductor's incoming one, not a planned one), no other order is searched for a fusion that does not fit, and the order
after fusion is one of four.

The table goes to bench/results/fusion_guard.md, the bytes to fusion_guard.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.fusion.kept import captured_pairs, read_pair
from bench.paths import INSTANCES, RESULTS
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Options
from memsched.files.json_file import atomic_write
from memsched.fusion.choose import choose_fusions
from memsched.fusion.contract import contract
from memsched.search.orders.inductor import post_order, stock_orders
from memsched.search.solver import solve

__all__ = ["GuardRow", "main", "table"]

_OPTIONS = Options(time_limit_s=60, work_limit=40_000, use_ilp=False)


@dataclass(frozen=True, slots=True)
class GuardRow:
    """One graph under three policies: peaks in bytes, and kernels."""

    name: str
    stock_peak: int
    stock_kernels: int
    guard_peak: int
    guard_kernels: int
    peak: int
    kernels: int
    lower_bound: int

    def cells(self) -> tuple[str, ...]:
        """The row of the table: MiB and kernels."""
        mib = [f"{peak / 2**20:.2f}" for peak in (self.stock_peak, self.guard_peak, self.peak, self.lower_bound)]
        kernels = [str(self.stock_kernels), str(self.guard_kernels), str(self.kernels)]
        return self.name, mib[0], kernels[0], mib[1], kernels[1], mib[2], kernels[2], mib[3]


_HEADER = ("graph", "stock MiB", "kernels", "guard MiB", "kernels", "memsched MiB", "kernels", "bound MiB")


def main(argv: Sequence[str] | None = None) -> int:
    """Judge every captured pair by the three policies."""
    parser = argparse.ArgumentParser(prog="python -m bench fusion-guard", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=INSTANCES, metavar="DIR")
    parser.add_argument("--only", default="", metavar="TEXT", help="only graphs with this in the name; writes nothing")
    parser.add_argument("--json", action="store_true", help="print the results instead of the table")
    arguments = parser.parse_args(argv)
    rows = []
    for name in captured_pairs(arguments.folder, arguments.only):
        rows.append(_row(name, *read_pair(arguments.folder, name)))
        print(" | ".join(rows[-1].cells()), file=sys.stderr, flush=True)
    record = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    if not arguments.only:
        results = RESULTS
        atomic_write(results / "fusion_guard.json", record.encode())
        atomic_write(results / "fusion_guard.md", table(rows).encode())
    print(record if arguments.json else table(rows), end="")
    return 0


def table(rows: Sequence[GuardRow]) -> str:
    """The rows in Markdown, and the geometric means over stock."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    guard = _mean([row.guard_peak / row.stock_peak for row in rows])
    ours = _mean([row.peak / row.stock_peak for row in rows])
    more = [_mean([kernels / row.stock_kernels for row, kernels in _kernels(rows, which)]) for which in (0, 1)]
    lines.append(
        f"\nGeometric means of stock's: peak {guard:.3f} with the guard and {ours:.3f} with memsched, "
        f"kernels {more[0]:.3f} and {more[1]:.3f}."
    )
    return "\n".join(lines) + "\n"


def _kernels(rows: Sequence[GuardRow], which: int) -> list[tuple[GuardRow, int]]:
    return [(row, (row.guard_kernels, row.kernels)[which]) for row in rows]


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 1.0


def _row(name: str, graph: Graph, wanted: list[list[int]]) -> GuardRow:
    incoming = graph.topological_order
    guarded = choose_fusions(graph, wanted, incoming, peak_bytes(graph, incoming), priorities=["traffic"], room_units=0)
    plan = solve(graph, _OPTIONS)
    choice = choose_fusions(graph, wanted, plan.order, plan.peak, priorities=["traffic"])
    planned = solve(contract(graph, choice.kernels), _OPTIONS, start_orders=[range(len(choice.kernels))])
    return GuardRow(
        name,
        stock_peak=_best_of_four(graph, wanted),
        stock_kernels=len(wanted),
        guard_peak=_best_of_four(graph, guarded.kernels),
        guard_kernels=len(guarded.kernels),
        peak=planned.peak,
        kernels=len(choice.kernels),
        lower_bound=planned.lower_bound,
    )


def _best_of_four(graph: Graph, kernels: Sequence[Sequence[int]]) -> int:
    """The peak after Inductor's own reorder of these kernels, which come sorted by their first op, depth first."""
    by_first = sorted(map(list, kernels), key=min)
    fused = contract(graph, by_first)
    ops = range(len(fused))
    incoming = post_order(fused.predecessors, [(op,) for op in ops], ops)
    fused = contract(graph, [by_first[op] for op in incoming])
    return min(peak_bytes(fused, order) for order in stock_orders(fused).values())

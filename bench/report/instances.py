"""Tables about captured graphs: what fusion alone takes, and what found the best orders.  From an index, no solving.

Both graphs of a pair hold the same computation, before and after stock's fusion.  Where the bound after fusion is above
the best peak before it, no order of the fused kernels can make up for the fusion: that is proved, not measured.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report.tables import Table, geometric_mean

__all__ = ["fusion_costs", "methods", "read_index"]

MIB = 2**20


def read_index(folder: Path) -> list[dict[str, Any]]:
    """The lines of `instances.jsonl`; raises FileNotFoundError."""
    return [json.loads(line) for line in (folder / "instances.jsonl").read_text().splitlines()]


def fusion_costs(index: Sequence[dict[str, Any]]) -> Table:
    """Each computation before and after stock's fusion."""
    lines, costs, order_gains = [], [], []
    for before, after in _pairs(index):
        cost = after["lb"] / before["best"]
        costs.append(cost)
        order_gains.append(after["best"] / after["stock"])
        lines.append(
            (
                before["model"],
                before["policy"],
                before["kind"],
                f"{before['ops']} to {after['ops']}",
                *(f"{value / MIB:.2f}" for value in (before["stock"], before["best"], after["stock"], after["best"])),
                f"{after['lb'] / MIB:.2f}",
                f"{cost:.2f}",
                after["status"],
            )
        )
    proved = sum(cost > 1 for cost in costs)
    about = (
        "MiB, without what fused kernels keep to themselves. *Stock* is the best of Inductor's four orders, *best* "
        "memsched's order of the same kernels, *bound* what none of their orders undercuts, *fusion costs* that bound "
        f"over the best peak before fusion: {_two(geometric_mean(costs))} in the mean, above 1 in {proved} of "
        f"{len(costs)} computations. The best order of the fused kernels is "
        f"{_two(geometric_mean(order_gains))} of stock's in the mean."
    )
    header = ("model", "checkpoints", "graph", "ops", "stock before", "best before", "stock after", "best after",
              "bound after", "fusion costs", "status after")  # fmt: skip
    return Table("What stock's fusion costs", about, header, lines)


def methods(index: Sequence[dict[str, Any]]) -> Table:
    """Which stage of the solver gave the best order."""
    lines = []
    for method, count in Counter(row["method"] for row in index).most_common():
        own = [row for row in index if row["method"] == method]
        proved = sum(row["status"] == "optimal" for row in own)
        ratio = geometric_mean(row["best"] / row["stock"] for row in own)
        lines.append((method, str(count), str(proved), _two(ratio), str(max(row["ops"] for row in own))))
    about = (
        "The stage of the solver that found the order: one of Inductor's (incoming, lpmf, bfs, dfs) that the bound "
        "proves optimal, the polynomial algorithm for series-parallel graphs, exact search (valley), local search."
    )
    return Table("What finds the best orders", about, ("found by", "graphs", "optimal", "of stock", "most ops"), lines)


def _pairs(index: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    stages: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in index:
        stages.setdefault((row["model"], row["size"], row["policy"], row["kind"], row["device"]), {})[row["stage"]] = (
            row
        )
    return [(pair["prefusion"], pair["postfusion"]) for pair in stages.values() if len(pair) == 2]


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

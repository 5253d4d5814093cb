"""What planning costs beside stock: `python -m bench fusion-cost [LAYERS ...]`, CPU seconds of one thread.

The shape of pytorch#193193 (`Traversal` of bench.models) with more and more layers, so that the backward graph grows
to thousands of nodes.  The stock column is tracing, autograd, lowering and fusion only: no code is generated and
nothing is compiled by g++ or Triton, which takes several times as long.  So no user sees a larger share than this one.
Results are added to bench/results/fusion_cost.json, a row for each number of layers; the table is fusion_cost.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

from bench.paths import RESULTS
from memsched.files.json_file import atomic_write

__all__ = ["main"]

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each number of layers and rewrite the table."""
    parser = argparse.ArgumentParser(prog="python -m bench fusion-cost", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("layers", type=int, nargs="*", default=[2, 6], metavar="LAYERS", help="default: 2 6")
    arguments = parser.parse_args(argv)
    path = RESULTS / "fusion_cost.json"
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    for layers in arguments.layers:
        rows = [row for row in rows if row["layers"] != layers] + [measure(layers)]
        rows.sort(key=lambda row: int(row["layers"]))
        atomic_write(path, (json.dumps(rows, indent=1) + "\n").encode())
        atomic_write(RESULTS / "fusion_cost.md", table(rows).encode())
    print(table(rows), end="")
    return 0


def measure(layers: int) -> Row:
    """CPU seconds of stock and of memsched's planner on one model."""
    import torch

    from bench.models.policies import parse_policy
    from bench.models.shared_weights import Traversal
    from memsched.inductor import session
    from memsched.inductor.capture.plan_only import plan_only
    from memsched.inductor.options import BackendOptions

    torch.set_num_threads(1)
    model, batch = Traversal(layers, 32, 2, 16, context=16).build(parse_policy("block"))
    plan_only(torch.nn.Linear(4, 4), (torch.ones(4, 4),))  # imports
    started = time.process_time()
    stock = plan_only(model, batch, stock=True)
    stock_seconds = time.process_time() - started
    with mock.patch.object(session, "time", SimpleNamespace(perf_counter=time.process_time)):
        planned = plan_only(model, batch, BackendOptions(strict=True))
    return {
        "layers": layers,
        "ops": max(report.ops + len(report.fusions) for report in planned),
        "stock_kernels": sum(report.kernels for report in stock),
        "kernels": sum(report.kernels for report in planned),
        "asked": sum(report.fusions_asked for report in planned),
        "stock_seconds": stock_seconds,
        "planner_seconds": sum(report.seconds for report in planned),
        "stock_peak": max(report.peak for report in stock),
        "peak": max(report.peak for report in planned),
    }


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    header = ("layers", "nodes before fusion", "fusions asked", "stock, s", "planner, s", "share", "peak of stock")
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        seconds = (f"{row['stock_seconds']:.1f}", f"{row['planner_seconds']:.1f}")
        share = f"{row['planner_seconds'] / row['stock_seconds']:.1%}"
        cells = (row["layers"], row["ops"], row["asked"], *seconds, share, f"{row['peak'] / row['stock_peak']:.2f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"

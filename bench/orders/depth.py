"""What planning costs as models get deep: `python -m bench depth [--models gpt contrastive] [--layers 4 12]`.

Every model at its small size, with more layers, is traced, cut and lowered to the scheduler twice, by stock and by
memsched, without code generation.  Columns:

    stock s        CPU seconds of stock, from tracing to scheduling
    planner s      CPU seconds of memsched's sessions (`GraphReport.seconds`): before, while and after nodes are fused
    of stock       planner over stock
    over stock     the peak over stock's; gap: how far above the bound, the larger of forward and backward

Code generation and the C++ or Triton compiler come on top for both; so the share of a compile is smaller.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.models.policies import parse_policy
from bench.models.registry import MODELS
from bench.models.workload import Workload
from memsched.files.json_file import atomic_write
from memsched.inductor.capture.plan_only import plan_only
from memsched.records.report import GraphReport

__all__ = ["DepthRow", "main", "markdown", "plan_at_depth"]

DEEP = [name for name, entry in MODELS.items() if "layers" in {field.name for field in dataclasses.fields(entry.small)}]
"""The models that have layers to add."""


@dataclasses.dataclass(frozen=True, slots=True)
class DepthRow:
    """One model at one depth; CPU seconds and bytes."""

    model: str
    layers: int
    ops: int
    stock_s: float
    planner_s: float
    peak: int
    stock_peak: int
    gap: float

    def __str__(self) -> str:
        share, ratio = self.planner_s / self.stock_s, self.peak / self.stock_peak
        times = f"stock {self.stock_s:6.2f} s, planner {self.planner_s:5.2f} s, {share:5.1%} of stock"
        what = f"{self.model:12} {self.layers:3} layers {self.ops:5} ops"
        return f"{what}: {times}; {ratio:.3f} over stock, gap {self.gap:.1%}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each model and depth as it is measured; nothing else should run beside."""
    parser = argparse.ArgumentParser(prog="python -m bench depth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=DEEP, default=["gpt", "contrastive", "moe"], metavar="NAME")
    parser.add_argument("--layers", nargs="+", type=int, default=[4, 12], metavar="N")
    parser.add_argument("-o", "--output", type=Path, help="write the rows there, as JSON")
    arguments = parser.parse_args(argv)
    if min(arguments.layers) < 1:
        parser.error(f"--layers {min(arguments.layers)} is not 1 or more")
    plan_at_depth("gpt", 1)  # what only the first compile of a process does
    rows = []
    for name in arguments.models:
        for layers in arguments.layers:
            rows.append(plan_at_depth(name, layers))
            print(rows[-1], flush=True)
            if arguments.output:  # at once: what was measured is kept when the rest is not
                text = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
                atomic_write(arguments.output, text.encode() + b"\n")
    return 0


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of rows as they are written, for docs/results.md."""
    lines = ["| model | layers | ops | stock s | planner s | of stock | peak of stock's | gap |", "|" + "---|" * 8]
    for row in rows:
        share, ratio = row["planner_s"] / row["stock_s"], row["peak"] / row["stock_peak"]
        cells = [row["model"], row["layers"], row["ops"], f"{row['stock_s']:.1f}", f"{row['planner_s']:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} | {share:.0%} | {ratio:.2f} | {row['gap']:.1%} |")
    return "\n".join(lines)


def plan_at_depth(name: str, layers: int) -> DepthRow:
    """The model with so many layers, planned by stock and by memsched."""
    entry = MODELS[name]
    policy = parse_policy(entry.policy)
    configuration: object = dataclasses.replace(entry.small, layers=layers)  # type: ignore[call-arg, type-var]
    torch.manual_seed(0)
    model, batch = configuration.build(policy)  # type: ignore[attr-defined]
    workload = Workload(name, model, batch, policy)
    stock, stock_s = _planned(workload, stock=True)
    ours, _ = _planned(workload, stock=False)
    peak, stock_peak = (max(report.peak for report in reports) for reports in (ours, stock))
    seconds, gap = sum(report.seconds for report in ours), max(report.gap for report in ours)
    return DepthRow(name, layers, sum(report.ops for report in ours), stock_s, seconds, peak, stock_peak, gap)


def _planned(workload: Workload, *, stock: bool) -> tuple[list[GraphReport], float]:
    """The reports of one way, and the CPU seconds that it took."""
    torch._dynamo.reset()
    with workload.policy.settings():
        started = time.process_time()
        reports = plan_only(workload.model, workload.batch, stock=stock)
        return reports, time.process_time() - started

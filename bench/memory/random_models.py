"""Is the model the allocator, and is nothing above stock?  On models that nobody chose: operators in random order.

    python -m bench random-models --seeds 0 100          about four minutes on two cores
    python -m bench random-models --table                only the table, from the rows that are there

Each model is planned for stock and for memsched, then compiled both ways with kernels that do nothing: the generated
wrappers allocate and free their real bytes, which the profiler counts over a whole step.  Rows go to
bench/results/random_models.json, the table to random_models.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.memory.no_kernels import kernels_that_do_nothing
from bench.models.random_operators import step
from bench.paths import RESULTS
from memsched.files.json_file import atomic_write
from memsched.inductor.bytes.measure import measure_peak
from memsched.inductor.capture.plan_only import plan_only

__all__ = ["compare", "main", "markdown"]

Row = dict[str, Any]
_SCALARS = 64
"""Bytes of scalars that live between the two graphs of a step, which no plan has."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare what is missing, write rows and table; 1 when a model is above stock, 2 on bad input."""
    options = _parser().parse_args(arguments)
    first, end = options.seeds
    if not 0 <= first < end:
        print(f"bench random-models: --seeds {first} {end} is empty", file=sys.stderr)
        return 2
    file = Path(options.output) / "random_models.json"
    if not file.parent.is_dir():
        print(f"bench random-models: --output {options.output} is no folder", file=sys.stderr)
        return 2
    rows: dict[int, Row] = {row["seed"]: row for row in (json.loads(file.read_text()) if file.exists() else [])}
    for seed in [] if options.table else range(first, end):
        if seed not in rows or options.again:
            print(f"seed {seed}", file=sys.stderr, flush=True)
            rows[seed] = compare(seed)
            _write(file, rows)
    found = _write(file, rows)
    atomic_write(file.with_suffix(".md"), markdown(found).encode())
    print(markdown(found))
    return int(any(row["memsched"] > row["stock"] for row in found))


def _write(file: Path, rows: Mapping[int, Row]) -> list[Row]:
    """All rows into the file, by seed, which are returned."""
    found = [rows[seed] for seed in sorted(rows)]
    atomic_write(file, (json.dumps(found, indent=1) + "\n").encode())
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench random-models", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 100), metavar=("FIRST", "END"))
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--table", action="store_true", help="only the table, from the rows that are there")
    parser.add_argument("--output", default=str(RESULTS), help="folder of rows and table")
    return parser


def compare(seed: int) -> Row:
    """Planned and measured bytes of one step, and kernels, of stock and of memsched."""
    row: Row = {"seed": seed}
    for way, stock in (("stock", True), ("memsched", False)):
        model, batch = step(seed)
        reports = plan_only(model, batch, stock=stock)
        row[f"{way}_planned"] = max(report.emitted_peak or report.peak for report in reports)
        row[f"{way}_kernels"] = sum(report.kernels for report in reports)
        with kernels_that_do_nothing():
            compiled = torch.compile(model, backend="inductor" if stock else "memsched")
            row[way] = measure_peak(_warm(lambda run=compiled, batch=batch, model=model: _step(run, model, batch)))
    return row


def _step(compiled: Callable[..., Any], model: torch.nn.Module, batch: Sequence[torch.Tensor]) -> None:
    compiled(*batch).backward()
    for tensor in (*model.parameters(), *batch):
        tensor.grad = None


def _warm(call: Callable[[], None]) -> Callable[[], None]:
    """The same call after two that compile, and make what lives on."""
    call()
    call()
    return call


def markdown(rows: Sequence[Row]) -> str:
    """What holds for all of them, as a table."""
    if not rows:
        return "No rows.\n"
    ratios = [row["memsched"] / row["stock"] for row in rows]
    lines = ["| models | exact | within 0.5% | within 2% | worst |", "|---|---|---|---|---|"]
    for way in ("stock", "memsched"):
        errors = [max(0, abs(row[way] - row[f"{way}_planned"]) - _SCALARS) / row[way] for row in rows]
        shares = [sum(error <= most for error in errors) / len(rows) for most in (0, 0.005, 0.02)]
        cells = " | ".join(f"{share:.0%}" for share in shares)
        lines.append(f"| {len(rows)}, planned = measured, {way} | {cells} | {max(errors):.1%} |")
    above = sum(ratio > 1 for ratio in ratios)
    kernels = sum(row["memsched_kernels"] for row in rows) / sum(row["stock_kernels"] for row in rows)
    lines += [
        "",
        f"Peak of the step over stock's, measured: geometric mean {statistics.geometric_mean(ratios):.3f}, "
        f"least {min(ratios):.3f}, largest {max(ratios):.3f}; {above} above stock. "
        f"Kernels over stock's: {kernels:.2f}.",
    ]
    return "\n".join(lines) + "\n"

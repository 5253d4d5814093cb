"""Is the model the allocator, and is nothing above stock?  On models that nobody chose: operators in random order.

    python -m bench random-models                        a step of 300 models, about half an hour
    python -m bench random-models --family images        convolutions only
    python -m bench random-models --inference            the same models, without gradients
    python -m bench random-models --table                only the table, from the rows that are there

Each model is planned for stock and for memsched, then compiled both ways with kernels that do nothing: the generated
wrappers allocate and free their real bytes, and libraries their scratch, which the profiler counts over a whole step.
The families of models are those of `bench.models.random_operators`.  Rows go to
bench/results/random_models.json, the table to random_models.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.memory.no_kernels import kernels_that_do_nothing
from bench.models.random_operators import Family, step
from bench.paths import RESULTS
from memsched.files.json_file import atomic_write
from memsched.inductor.bytes.measure import measure_peak
from memsched.inductor.capture.plan_only import plan_only

__all__ = ["compare", "main", "markdown"]

Row = dict[str, Any]
_Rows = dict[tuple[str, int, bool], Row]
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
    rows: _Rows = {_key(row): row for row in (json.loads(file.read_text()) if file.exists() else [])}
    for family in [] if options.table else options.family or [family.value for family in Family]:
        for seed in range(first, end):
            if (family, seed, options.inference) not in rows or options.again:
                print(f"{family} {seed}", file=sys.stderr, flush=True)
                rows[family, seed, options.inference] = compare(seed, Family(family), inference=options.inference)
                _write(file, rows)
    found = _write(file, rows)
    atomic_write(file.with_suffix(".md"), markdown(found).encode())
    print(markdown(found))
    return int(any(row["memsched"] > row["stock"] for row in found))


def _key(row: Row) -> tuple[str, int, bool]:
    return row["family"], row["seed"], row["inference"]


def _write(file: Path, rows: _Rows) -> list[Row]:
    """All rows into the file, steps first, by family and seed, which are returned."""
    order = [family.value for family in Family]
    found = sorted(rows.values(), key=lambda row: (row["inference"], order.index(row["family"]), row["seed"]))
    atomic_write(file, (json.dumps(found, indent=1) + "\n").encode())
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench random-models", description=(__doc__ or "").split("\n\n")[0])
    families = [family.value for family in Family]
    parser.add_argument("--family", action="append", choices=families, help="may be given more than once; all")
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 60), metavar=("FIRST", "END"))
    parser.add_argument("--inference", action="store_true", help="without gradients, instead of a step")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--table", action="store_true", help="only the table, from the rows that are there")
    parser.add_argument("--output", default=str(RESULTS), help="folder of rows and table")
    return parser


def compare(seed: int, family: Family = Family.FLOAT32, *, inference: bool = False) -> Row:
    """Planned and measured bytes of one step, or of one call without gradients, and kernels, of both ways."""
    row: Row = {"family": family.value, "seed": seed, "inference": inference}
    for way, stock in (("stock", True), ("memsched", False)):
        model, batch = step(seed, family)
        with torch.set_grad_enabled(not inference):
            reports = plan_only(model, batch, stock=stock)
            row[f"{way}_planned"] = max(report.generated_peak for report in reports)
            row[f"{way}_kernels"] = sum(report.kernels for report in reports)
            with kernels_that_do_nothing():
                compiled = torch.compile(model, backend="inductor" if stock else "memsched")
                row[way] = measure_peak(_warm(lambda run=compiled, batch=batch, model=model: _step(run, model, batch)))
    return row


def _step(compiled: Callable[..., Any], model: torch.nn.Module, batch: Sequence[torch.Tensor]) -> None:
    loss = compiled(*batch)
    if loss.requires_grad:
        loss.backward()
    for tensor in (*model.parameters(), *batch):
        tensor.grad = None


def _warm(call: Callable[[], None]) -> Callable[[], None]:
    """The same call after two that compile, and make what lives on."""
    call()
    call()
    return call


def markdown(rows: Sequence[Row]) -> str:
    """What holds for the models of each family, and for all of them, as two tables."""
    if not rows:
        return "No rows.\n"
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row["family"] + (" inference" if row["inference"] else ""), []).append(row)
    all_of_them = {**families, "all": list(rows)} if len(families) > 1 else families
    truth = ["| planned = measured | models | exact | within 0.5% | within 2% | worst |", "|---|---|---|---|---|---|"]
    gain = [
        "| peak over stock's | mean | least | largest | above stock | kernels |",
        "|---|---|---|---|---|---|",
    ]
    for family, some in all_of_them.items():
        truth += [_truth(f"{family}, {way}", some, way) for way in ("stock", "memsched")]
        gain.append(_gain(family, some))
    return "\n".join([*truth, "", *gain]) + "\n"


def _truth(name: str, rows: Sequence[Row], way: str) -> str:
    errors = [max(0, abs(row[way] - row[f"{way}_planned"]) - _SCALARS) / row[way] for row in rows]
    shares = " | ".join(f"{sum(error <= most for error in errors) / len(rows):.0%}" for most in (0, 0.005, 0.02))
    return f"| {name} | {len(rows)} | {shares} | {max(errors):.1%} |"


def _gain(name: str, rows: Sequence[Row]) -> str:
    ratios = [row["memsched"] / row["stock"] for row in rows]
    above = sum(ratio > 1 for ratio in ratios)
    kernels = sum(row["memsched_kernels"] for row in rows) / sum(row["stock_kernels"] for row in rows)
    mean = statistics.geometric_mean(ratios)
    return f"| {name} | {mean:.3f} | {min(ratios):.3f} | {max(ratios):.3f} | {above} | {kernels:.2f} |"

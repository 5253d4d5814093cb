"""Is a planned step never above the other ways to train?  Models as people train them, three optimizers, real bytes.

    python -m bench whole-steps                                        all, about three quarters of an hour
    python -m bench whole-steps --models "gpt, 8k words" --optimizers sgd
    python -m bench whole-steps --table                                only the table, from the rows that are there

    stock                the compiled model, then `optimizer.step()`
    stock, compiled      the compiled model, then the compiled `optimizer.step()`
    eager, in backward   a hook on each parameter updates it when its gradient is there
    train_step           `memsched.train_step`

Compiled graphs run with kernels that do nothing: their wrappers allocate and free their real bytes, and libraries their
scratch (`bench.memory.no_kernels`).  Bytes are above what lives before a step: parameters, state, batch.  Rows go to
bench/results/whole_steps.json, the table to whole_steps.md.
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
from torch import nn
from torch.optim import Optimizer

from bench.memory.no_kernels import kernels_that_do_nothing
from bench.models.whole_steps import WHOLE_STEP_MODELS
from bench.models.workload import Batch
from bench.paths import RESULTS
from bench.run.train_step import OPTIMIZERS, make_step
from memsched.files.json_file import atomic_write
from memsched.inductor.bytes.measure import measure_peak

__all__ = ["main", "markdown", "measured_row"]

Row = dict[str, Any]
WAYS = ("stock", "stock, compiled", "eager, in backward", "train_step")
_OPTIMIZERS = ("sgd", "adamw", "adafactor")
_SCALARS = 64
"""Bytes of scalars, of which no bound knows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, write rows and table; 1 when a step is above another way that no bound excuses."""
    options = _parser().parse_args(arguments)
    file = Path(options.output) / "whole_steps.json"
    if not file.parent.is_dir():
        print(f"bench whole-steps: --output {options.output} is no folder", file=sys.stderr)
        return 2
    rows = {(row["model"], row["optimizer"]): row for row in (json.loads(file.read_text()) if file.exists() else [])}
    for model in [] if options.table else options.models:
        for optimizer in options.optimizers:
            if (model, optimizer) not in rows or options.again:
                print(f"{model}: {optimizer}", file=sys.stderr, flush=True)
                rows[model, optimizer] = measured_row(model, optimizer)
                _write(file, rows)
    found = _write(file, rows)
    print(markdown(found), end="")
    return int(any(map(_above, found)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench whole-steps", description=(__doc__ or "").split("\n\n")[0])
    models, optimizers = list(WHOLE_STEP_MODELS), list(_OPTIMIZERS)
    parser.add_argument("--models", nargs="+", default=models, choices=models, metavar="NAME", help="default: all")
    parser.add_argument("--optimizers", nargs="+", default=optimizers, choices=optimizers, help="default: all")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--table", action="store_true", help="only the table, from the rows that are there")
    parser.add_argument("--output", default=str(RESULTS), help="folder of rows and table")
    return parser


def _write(file: Path, rows: dict[tuple[str, str], Row]) -> list[Row]:
    """All rows, in the order of models and optimizers, into the file and the table beside it; they are returned."""
    models = list(WHOLE_STEP_MODELS)
    found = sorted(rows.values(), key=lambda row: (models.index(row["model"]), _OPTIMIZERS.index(row["optimizer"])))
    atomic_write(file, (json.dumps(found, indent=1) + "\n").encode())
    atomic_write(file.with_suffix(".md"), markdown(found).encode())
    return found


def measured_row(name: str, optimizer: str) -> Row:
    """Bytes of one step in each way, what was planned for `train_step`, and the bound of that plan."""
    row: Row = {"model": name, "optimizer": optimizer}
    for way in WAYS:
        torch.manual_seed(0)
        model, batch = WHOLE_STEP_MODELS[name]()
        torch.compiler.reset()
        with kernels_that_do_nothing():
            step = _step(way, model, OPTIMIZERS[optimizer], batch)
            step()
            step()
            row[way] = measure_peak(step)
        if way == "train_step":
            plan = step.step.report.plan  # type: ignore[attr-defined]
            row |= {"planned": plan.generated_peak, "bound": plan.lower_bound, "kernels": plan.kernels}
    return row


def _step(way: str, model: nn.Module, make: Callable[[Any], Optimizer], batch: Batch) -> Callable[[], Any]:
    if way != "stock, compiled":
        return make_step(way, model, make, batch)
    optimizer, forward = make(model.parameters()), torch.compile(model)
    update = torch.compile(optimizer.step)

    def step() -> None:
        forward(*batch).backward()
        update()
        optimizer.zero_grad(set_to_none=True)

    return step


def _least_of_others(row: Row) -> int:
    return min(row[way] for way in WAYS if way != "train_step")


def _above(row: Row) -> bool:
    """Whether another way needs less, though the bound of the plan would allow it."""
    return bool(row["train_step"] > max(_least_of_others(row), row["bound"] + _SCALARS))


def markdown(rows: Sequence[Row]) -> str:
    """A row for each model and optimizer, in MiB, and what holds for all."""
    header = ("model", "optimizer", *WAYS, "of stock", "planned, bound")
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [f"{row[way] / 2**20:.2f}" for way in WAYS]
        cells.append(f"{row['train_step'] / row['stock']:.2f}" + (" above" if _above(row) else ""))
        cells.append(f"{row['planned'] / 2**20:.2f}, {row['bound'] / 2**20:.2f}")
        lines.append("| " + " | ".join((row["model"], row["optimizer"], *cells)) + " |")
    if rows:
        mean = statistics.geometric_mean([row["train_step"] / row["stock"] for row in rows])
        above = sum(map(_above, rows))
        excused = sum(row["train_step"] > _least_of_others(row) and not _above(row) for row in rows)
        lines += ["", f"Geometric mean over stock {mean:.2f}; above another way {above} of {len(rows)}, and {excused} "
                  "more that no plan of these kernels avoids (the bound)."]  # fmt: skip
    return "\n".join(lines) + "\n"

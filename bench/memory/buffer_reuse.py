"""What Inductor's buffer reuse costs and brings under memsched's plan: bytes and step time, with it and without.

    python -m bench buffer-reuse                         three models, about five minutes on two cores; resumable
    python -m bench buffer-reuse --models looped moe     these
    python -m bench buffer-reuse --table                 only the table, from the rows that are there

`allow_buffer_reuse` keeps a dead buffer for a later one of the same size where Inductor's own estimate of the peak has
room for it.  memsched switches it off; this is the measurement behind that.  One process compiles each model both ways;
memory is the allocator's, of one training step above what is live before it; step times are medians of alternating
runs.  Rows go to bench/results/buffer_reuse.json, the table to buffer_reuse.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.models import Workload, build, fault_of_names
from bench.paths import RESULTS
from bench.run.step import clear_gradients, seconds_in_alternation, training_step
from memsched.files.json_file import atomic_write
from memsched.inductor.bytes.measure import measure_peak

__all__ = ["main", "markdown", "measure"]

DEFAULT = ("looped", "hf_qwen3_moe", "hf_mixtral")
WAYS = {"off": False, "on": True}
_MIB = 2**20
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, write rows and table; 0 when done, 2 on bad input."""
    options = _parser().parse_args(arguments)
    fault = fault_of_names(options.models)
    if fault:
        print(f"bench buffer-reuse: {fault}", file=sys.stderr)
        return 2
    file = Path(options.output) / "buffer_reuse.json"
    rows: dict[str, Row] = {row["model"]: row for row in _read(file)}
    for name in [] if options.table else options.models:
        if name not in rows or options.again:
            print(f"{name}: compiling twice", file=sys.stderr)
            rows[name] = {"model": name, "size": options.size} | measure(build(name, options.size), options.repetitions)
            _write(file, list(rows.values()))
    _write(file, list(rows.values()))
    print(markdown(list(rows.values())))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench buffer-reuse", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=DEFAULT, metavar="NAME")
    parser.add_argument("--size", choices=("small", "cpu"), default="cpu", help="of the models (default: cpu)")
    parser.add_argument("--repetitions", type=int, default=21, help="timed steps of each way (default: 21)")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--table", action="store_true", help="only the table, from the rows that are there")
    parser.add_argument("--output", default=str(RESULTS), help="folder of rows and table")
    return parser


def measure(workload: Workload, repetitions: int) -> Row:
    """Peaks in bytes, and seconds of a step, with reuse "on" and "off"."""
    steps: dict[str, Callable[[], None]] = {}
    row: Row = {"torch": str(torch.__version__)}
    with workload.policy.settings():
        for way, allowed in WAYS.items():
            torch._dynamo.reset()
            model = copy.deepcopy(workload.model)
            compiled = torch.compile(model, backend="memsched", options={"allow_buffer_reuse": allowed})
            steps[way] = step = training_step(model, compiled, workload.batch)
            step()
            step()
            clear_gradients(model)
            row[way] = {"peak": measure_peak(step)}
        for way, taken in seconds_in_alternation(steps, repetitions).items():
            row[way]["seconds"] = statistics.median(taken)
    return row


def markdown(rows: Sequence[Row]) -> str:
    """One line for each model; bytes in MiB, and ratios of what is off over what is on."""
    lines = ["| model | reuse MiB | without MiB | of that with reuse | step time |", "|---|---|---|---|---|"]
    for row in rows:
        on, off = row["on"], row["off"]
        ratios = f"{off['peak'] / on['peak']:.3f} | {off['seconds'] / on['seconds']:.2f}"
        lines.append(f"| {row['model']} | {on['peak'] / _MIB:.2f} | {off['peak'] / _MIB:.2f} | {ratios} |")
    return "\n".join(lines) + "\n"


def _read(file: Path) -> list[Row]:
    rows: list[Row] = json.loads(file.read_text())["rows"] if file.exists() else []
    return rows


def _write(file: Path, rows: list[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps({"rows": rows}, indent=1).encode() + b"\n")
    atomic_write(file.with_suffix(".md"), markdown(rows).encode())

"""The demo: compile real models, put eager, stock Inductor and memsched side by side, draw their memory over time.

python -m bench demo                                    two models, about five minutes on two cores
python -m bench demo --models all --device cuda         four models, the GPU's own counters
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch._inductor.utils import fresh_cache

from bench.models import DEMO, DEMO_MODELS, MODELS, build
from bench.run.figure import draw_step
from bench.run.step import Mode, StepResult, run_workload
from memsched.files.json_file import atomic_write

__all__ = ["main", "markdown_table"]

_MIB = 2**20
_HEADER = (
    "model", "mode", "peak MiB", "of stock", "of eager", "step", "kernels", "compile s", "planner",
    "modelled MiB", "bound MiB", "gap", "status",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when every model ran, 2 on bad arguments."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 170)
    names = list(DEMO_MODELS) if options.models == ["all"] else options.models
    device = _device(options.device)
    fault = _fault(options, device, names)
    if device is None or fault:
        print(f"bench demo: {fault}", file=sys.stderr)
        return 2
    started = time.perf_counter()
    with fresh_cache():  # what an earlier run has compiled would make the times of this one meaningless
        results = [_run(name, device, options, console, started) for name in names]
    _save(results, Path(options.output))
    console.print(_table(results))
    console.print(
        f"{time.perf_counter() - started:.0f} s on {os.cpu_count()} cores, torch {torch.__version__}, {device}; "
        f"pictures and results in {options.output}/"
    )
    return 0


def _run(name: str, device: str, options: argparse.Namespace, console: Console, started: float) -> StepResult:
    workload = build(name, options.size or device, device)
    with console.status(f"{name}: starting") as status:

        def progress(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                print(f"[{time.perf_counter() - started:5.0f} s] {text}", file=sys.stderr, flush=True)

        return run_workload(workload, device, options.repetitions, progress)


def markdown_table(results: Sequence[StepResult]) -> str:
    """The table of the README."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    lines += ["| " + " | ".join(row) + " |" for result in results for row in _rows(result)]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench demo", description=(__doc__ or "").split("\n\n")[0])
    known = f"{', '.join(DEMO_MODELS)}, or all of these, or any other of the registry"
    parser.add_argument("--models", nargs="+", default=list(DEMO), metavar="NAME",
                        help=f"{known} (default: {' '.join(DEMO)})")  # fmt: skip
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="cpu", help="auto: cuda where there is one"
    )
    parser.add_argument("--size", choices=("small", "cpu", "cuda"), help="sizes of the models (default: of the device)")
    parser.add_argument("--repetitions", type=int, default=25, help="timed steps of each mode (default: 25)")
    parser.add_argument(
        "--output", default="demo_results", help="folder for pictures and results (default: %(default)s)"
    )
    return parser


def _fault(options: argparse.Namespace, device: str | None, names: Sequence[str]) -> str:
    """What is wrong with the arguments, or ""."""
    if device is None:
        return "--device cuda: this machine has no GPU that torch can use"
    if options.repetitions < 1:
        return f"--repetitions: {options.repetitions} is not 1 or more"
    unknown = [name for name in names if name not in MODELS]
    return f"--models: {unknown[0]!r} is unknown (there are {', '.join(MODELS)}, all)" if unknown else ""


def _device(asked: str) -> str | None:
    has_gpu = torch.cuda.is_available()
    if asked == "auto":
        return "cuda" if has_gpu else "cpu"
    return None if asked == "cuda" and not has_gpu else asked


def _save(results: Sequence[StepResult], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        atomic_write(folder / f"{result.workload}.png", draw_step(result))
    environment = {"torch": torch.__version__, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    record = {"environment": environment, "results": [result.to_json() for result in results]}
    atomic_write(folder / "results.json", json.dumps(record, indent=1).encode() + b"\n")
    atomic_write(folder / "results.md", markdown_table(results).encode())


def _table(results: Sequence[StepResult]) -> Table:
    table = Table(title="one training step: forward and backward", header_style="bold")
    for at, column in enumerate(_HEADER):
        table.add_column(column, justify="left" if at < 2 else "right", no_wrap=True)
    for result in results:
        for row in _rows(result):
            style = "bold" if row[1] == "memsched" else None
            table.add_row(*row, style=style, end_section=row[1] == "memsched")
    return table


def _rows(result: StepResult) -> list[tuple[str, ...]]:
    return [_row(result, mode) for mode in result.modes.values()]


def _row(result: StepResult, mode: Mode) -> tuple[str, ...]:
    compiled = mode.name != "eager"
    return (
        result.workload,
        mode.name,
        f"{mode.peak / _MIB:.2f}",
        f"{result.ratio(mode.name, 'stock'):.2f}",
        f"{result.ratio(mode.name, 'eager'):.2f}",
        f"{result.ratio(mode.name, 'stock', 'seconds'):.2f}",
        str(mode.kernels) if mode.kernels else "",
        f"{mode.compile_seconds:.0f}" if compiled else "",
        f"{mode.planner_seconds:.1f} s, {result.planner_share:.1%}" if mode.name == "memsched" else "",
        f"{mode.modelled / _MIB:.2f}" if mode.modelled else "",
        f"{mode.lower_bound / _MIB:.2f}" if mode.lower_bound else "",
        f"{mode.gap:.1%}" if mode.gap is not None else "",
        mode.status,
    )

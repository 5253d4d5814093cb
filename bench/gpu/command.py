"""Everything that only a GPU can tell, in minutes: memory first, times last; each row is written at once.

    python -m bench.gpu --minutes 7                on a machine with one GPU, torch 2.11 to 2.15; no network, no solver
    python -m bench.gpu --device cpu --minutes 4   the commands tried on a CPU, at the smallest sizes
    python -m bench.gpu --table                    only the table, from the rows that are there

Each task is a process of its own, killed when the time is over; what it had found stays.  A failure is a row with its
reason, and the next task goes on.  Triton's compiles are what takes the time: models have few layers, and all tasks
share one cache.  Rows go to bench/results/gpu.jsonl (gpu-cpu.jsonl for a trial).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.paths import RESULTS
from memsched.files.json_file import atomic_write

__all__ = ["main", "table", "tasks"]

Row = dict[str, Any]
_MODELS = ("contrastive", "looped", "moe", "gpt", "hf_llama")
_LEAST_SECONDS = 15.0
"""A task that has less is not begun."""
_MIB = 2**20


def tasks(layers: int, models: Sequence[str] = _MODELS) -> list[Row]:
    """In the order of what is worth most; only those of `models`."""
    order = [("memory", model) for model in _MODELS]
    order += [("train_step", "gpt"), ("train_step", "hf_llama"), ("graphs", "gpt"), ("graphs", "contrastive")]
    order += [("times", model) for model in _MODELS]
    return [{"task": task, "model": model, "layers": layers} for task, model in order if model in models]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the time allows; print the table; 2 when there is no GPU."""
    options = _parser().parse_args(argv)
    file = RESULTS / ("gpu.jsonl" if options.device == "cuda" else f"gpu-{options.device}.jsonl")
    if options.output is not None:
        file = options.output
    if not (file if options.table else file.parent).exists():
        print(f"bench gpu: {file if options.table else file.parent} does not exist", file=sys.stderr)
        return 2
    if options.table:
        print(table([json.loads(line) for line in file.read_text().splitlines()]))
        return 0
    environment = _environment(options.device)
    if environment is None:
        print(f"bench gpu: --device {options.device}: this machine has no GPU that torch can use", file=sys.stderr)
        return 2
    rows: list[Row] = [environment]
    ends = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="memsched-gpu-") as place:
        for task in tasks(options.layers, options.models):
            left = ends - time.monotonic()
            if left < _LEAST_SECONDS:
                rows.append(task | {"way": "", "status": "left out", "reason": "no time left"})
            else:
                print(f"[{left:4.0f} s left] {task['task']} {task['model']}", file=sys.stderr, flush=True)
                rows += _run(task | {"device": options.device}, Path(place), left)
            atomic_write(file, "".join(json.dumps(row) + "\n" for row in rows).encode())
    print(table(rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=7.0, metavar="M", help="all together (default: 7)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--layers", type=int, default=2, metavar="N", help="of each model, at its real width (default: 2)"
    )
    parser.add_argument(
        "--models", nargs="+", choices=_MODELS, default=_MODELS, metavar="NAME", help=", ".join(_MODELS)
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="instead of bench/results/gpu.jsonl")
    parser.add_argument("--table", action="store_true", help="only the table, from the rows that are there")
    return parser


def _environment(device: str) -> Row | None:
    """The first row; None without the device."""
    import torch

    row: Row = {
        "task": "environment",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
    }
    if device == "cpu":
        return row
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return row | {"gpu": properties.name, "memory": properties.total_memory, "cuda": torch.version.cuda}


def _run(task: Row, place: Path, seconds: float) -> list[Row]:
    """The rows of one task; when its process died or the time was over, with one that says so."""
    described, events, errors = (place / name for name in ("task.json", "events.jsonl", "errors"))
    described.write_text(json.dumps(task))
    events.write_text("")
    own = {"TORCHINDUCTOR_CACHE_DIR": str(place / "cache")}
    with errors.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu.tasks", str(described), str(events)],
            stdout=output, stderr=output, env={**os.environ, **own}, start_new_session=True,
        )  # fmt: skip
        reason = ""
        try:
            if process.wait(seconds):
                reason = next((line for line in reversed(errors.read_text().splitlines()) if line.strip()), "")
                reason = reason[:300] or f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            reason = "the time was over"
        finally:  # also when somebody interrupts: the task is in a group of its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    rows = [json.loads(line) for line in events.read_text().splitlines() if line.endswith("}")]
    if reason:
        rows.append(
            {key: task[key] for key in ("task", "model", "layers")} | {"way": "", "status": "failed", "reason": reason}
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """What was measured, and beside it what was modelled; failures with their reasons."""
    lines = [
        f"{' '.join(f'{key} {value}' for key, value in row.items())}" for row in rows if row["task"] == "environment"
    ]
    lines += ["", "| task | model | way | peak MiB | of stock | modelled MiB | reserved MiB | gradients | step s |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    stock = {(row["task"], row["model"]): row["peak"] for row in rows if _is_stock(row)}
    for row in rows:
        if row["task"] == "environment":
            continue
        if row["status"] != "ok":
            lines.append(
                f"| {row['task']} | {row['model']} | {row['way']} | {row['status']}: {row['reason']} |" + " |" * 5
            )
            continue
        peak, base = row.get("peak"), stock.get((row["task"], row["model"]))
        cells = [
            _mib(peak),
            f"{peak / base:.3f}" if peak and base else "",
            _mib(max((graph["peak"] for graph in row.get("graphs", ())), default=None)),
            _mib(row.get("reserved")),
            f"{row['difference']:.0e}" if "difference" in row else "",
            f"{row['seconds']:.4f}" if "seconds" in row else "",
        ]
        lines.append(f"| {row['task']} | {row['model']} | {row['way']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _is_stock(row: Row) -> bool:
    return row.get("status") == "ok" and "peak" in row and row["way"].startswith("stock")


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / _MIB:,.2f}"

"""What memsched brings on a GPU, planned without one: the checkpointed models at their cuda sizes, against stock.

    python -m bench cuda-plans                        all models, 2 layers each: a minute or two for each; resumable
    python -m bench cuda-plans --models contrastive --layers 0      as deep as the registry has it
    python -m bench cuda-plans --time-limit 30        with more time for each graph than memsched's default
    python -m bench cuda-plans --with-reuse           also with Inductor's `allow_buffer_reuse`, off in memsched
    python -m bench cuda-plans --table                only the table, from the rows that are there

Every figure is of the wrapper that Inductor generated for CUDA, replayed with fake tensors in blocks of 512 bytes
(`memsched.inductor.bytes.replay`): the peak of one training step, forward and backward, above parameters, buffers and
batch. Rows go to bench/results/cuda_plans.json, one for each model and depth; the table goes to cuda_plans.md.

    of stock    memsched's peak over stock's; 1 is stock, less is less memory
    layers      at most, where the model has layers; "all": as the registry has it
    bound       what no order of memsched's kernels undercuts, in the graph that peaks highest, over its modelled peak
    limit s     the planner's seconds for each graph, where they are not the default
    with reuse  memsched with Inductor's `allow_buffer_reuse`, over stock's peak; where it was asked for
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.models import MODELS, Workload, fault_of_names, parse_policy
from bench.paths import BENCH, RESULTS
from memsched.core.sizes import InputError
from memsched.files.json_file import atomic_write
from memsched.inductor.cuda_without_gpu import CudaUnavailable, CudaWorker, StepPlan, WorkerError, set_up
from memsched.inductor.options import BackendOptions

__all__ = ["WEIGHT_SHARING", "main", "markdown", "step"]

WEIGHT_SHARING = ("contrastive", "siamese", "preference", "looped", "traversal")
"""Models whose weights are used more than once in a step: at most `SHARED_LIMIT` of stock is asked of them."""

SHARED_LIMIT = 0.45

_WITH_REUSE = "memsched with reuse"
_TITLES = (
    *("model", "layers", "stock GiB", "memsched GiB", "of stock", "kernels"),
    *("bound", "status", "limit s", "with reuse", "commit"),
)
_Key = tuple[str, int, float | None]
"""Of a row: model, layers, time limit."""

_GIB = 2**30


def step(name: str, layers: int = 0) -> Workload:
    """The model at its cuda size, with that many layers instead of its own if `layers` is not 0; for the worker."""
    entry = MODELS[name]
    configuration: Any = entry.cuda
    if layers and getattr(configuration, "layers", 0) > layers:
        configuration = dataclasses.replace(configuration, layers=layers)
    policy = parse_policy(entry.policy)
    model, batch = configuration.build(policy)
    return Workload(name, model, batch, policy)


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan what is missing, write rows and table; 0 when every row is there, 1 when one failed, 2 on bad input."""
    options = _parser().parse_args(arguments)
    fault = fault_of_names(options.models) or _fault_of_limit(options.time_limit)
    if fault:
        print(f"bench cuda-plans: {fault}", file=sys.stderr)
        return 2
    file = Path(options.output) / "cuda_plans.json"
    rows = _read(file)
    wanted = [] if options.table else [(name, options.layers, options.time_limit) for name in options.models]
    missing = [key for key in wanted if options.again or key not in rows or "failure" in rows[key]]
    console = Console(stderr=True)
    try:
        if missing:
            set_up(console.print)
        for name, layers, time_limit in missing:
            ways = ("stock", "memsched", *((_WITH_REUSE,) if options.with_reuse else ()))
            rows[name, layers, time_limit] = _row(name, layers, time_limit, ways, console)
            _write(file, rows)
    except CudaUnavailable as error:
        print(f"bench cuda-plans: {error}", file=sys.stderr)
        return 2
    _write(file, rows)
    print(markdown(list(rows.values())))
    return int(any("failure" in row for row in rows.values()))


def _fault_of_limit(time_limit: float | None) -> str:
    """What is wrong with a time limit, in one line; "" if nothing is."""
    try:
        BackendOptions(**_limited(time_limit))
    except ValueError as error:
        return f"--time-limit: {error}"
    return ""


def _limited(time_limit: float | None) -> dict[str, float]:
    """The option of the backend; none for its own default."""
    return {} if time_limit is None else {"time_limit_s": time_limit}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench cuda-plans", description=(__doc__ or "").split("\n\n")[0])
    checkpointed = [name for name, entry in MODELS.items() if "ac" in entry.suites]
    parser.add_argument(
        "--models", nargs="+", default=checkpointed, metavar="NAME", help="default: all of the suite ac"
    )
    parser.add_argument("--layers", type=int, default=2, help="layers at most; 0: as the registry has it (default: 2)")
    parser.add_argument("--with-reuse", action="store_true", help="also plan with Inductor's reuse of buffers")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="for each graph (default: memsched's own)")
    parser.add_argument("--again", action="store_true", help="plan again what is there already")
    parser.add_argument("--table", action="store_true", help="plan nothing, write and print the table")
    parser.add_argument("--output", default=str(RESULTS), help="folder of the rows and the table")
    return parser


def _row(name: str, layers: int, time_limit: float | None, ways: Sequence[str], console: Console) -> dict[str, Any]:
    """The row of one model; a failure is a row."""
    row: dict[str, Any] = {"model": name, "layers": layers, "time_limit_s": time_limit}
    started = time.perf_counter()
    with console.status(f"{name}: starting") as status, CudaWorker() as worker:
        try:
            plans = worker.plans(
                "bench.memory.cuda_plans:step",
                ways=ways,
                options=_limited(time_limit),
                arguments={"name": name, "layers": layers},
                progress=lambda text: status.update(f"{name}: {text} [{time.perf_counter() - started:.0f} s]"),
            )
        except (InputError, WorkerError) as error:
            return row | {"failure": str(error)}
    row |= {"torch": plans[0].torch, "commit": _commit(), "held": plans[0].held.total}
    row |= {"seconds": round(time.perf_counter() - started, 1)}
    return row | {"ways": {plan.way: _figures(plan) for plan in plans}}


def _commit() -> str:
    """The commit of memsched that made the plan; "" outside of a repository."""
    command = ["git", "-C", str(BENCH), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _figures(plan: StepPlan) -> dict[str, Any]:
    graphs = [
        {name: getattr(graph.report, name) for name in ("kind", "peak", "lower_bound", "status", "kernels")}
        | {name: getattr(graph, name) for name in ("replayed", "entry", "retained")}
        | {"fusions_refused": graph.report.fusions_refused}
        for graph in plan.graphs
    ]
    return {"peak": plan.step_peak, "graphs": graphs}


def _read(file: Path) -> dict[_Key, dict[str, Any]]:
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    return {(row["model"], row["layers"], row.get("time_limit_s")): row for row in rows}


def _write(file: Path, rows: dict[_Key, dict[str, Any]]) -> None:
    order = {name: at for at, name in enumerate(MODELS)}
    keys = sorted(rows, key=lambda key: (order.get(key[0], len(order)), key[1] or math.inf, key[2] or 0.0))
    listed = [rows[key] for key in keys]
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps({"rows": listed}, indent=1).encode() + b"\n")
    atomic_write(file.with_suffix(".md"), markdown(listed).encode())


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table, and a line of what was asked."""
    lines = [f"| {' | '.join(_TITLES)} |", "|---" * len(_TITLES) + "|"]
    for row in rows:
        layers = row["layers"] or "all"
        if "failure" in row:
            lines.append(f"| {row['model']} | {layers} | {row['failure']} |" + " |" * (len(_TITLES) - 3))
            continue
        lines.append("| " + " | ".join((row["model"], str(layers), *_cells(row))) + " |")
    return "\n".join(lines) + "\n\n" + _verdict([row for row in rows if "failure" not in row]) + "\n"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    stock, planned, reusing = (row["ways"].get(way) for way in ("stock", "memsched", _WITH_REUSE))
    highest = max(planned["graphs"], key=lambda graph: graph["peak"])
    kernels = [sum(graph["kernels"] for graph in way["graphs"]) for way in (planned, stock)]
    return (
        f"{stock['peak'] / _GIB:.3f}",
        f"{planned['peak'] / _GIB:.3f}",
        f"{_of_stock(row):.3f}",
        f"{kernels[0] / kernels[1]:.2f}",
        f"{highest['lower_bound'] / highest['peak']:.3f}",
        highest["status"],
        "" if row.get("time_limit_s") is None else f"{row['time_limit_s']:g}",
        f"{reusing['peak'] / stock['peak']:.3f}" if reusing else "",
        row["commit"],
    )


def _of_stock(row: dict[str, Any]) -> float:
    return float(row["ways"]["memsched"]["peak"] / row["ways"]["stock"]["peak"])


def _verdict(rows: Sequence[dict[str, Any]]) -> str:
    """What was asked: of every row, and of the planner's own time where a model is deepest."""
    above = [f"{row['model']} ({row['layers'] or 'all'})" for row in rows if _of_stock(row) > 1]
    usual = [row for row in rows if row.get("time_limit_s") is None]
    deepest = {row["model"]: row for row in sorted(usual, key=lambda row: row["layers"] or math.inf)}
    shared = {model: _of_stock(row) for model, row in deepest.items() if model in WEIGHT_SHARING}
    missed = [model for model, ratio in shared.items() if ratio > SHARED_LIMIT]
    return (
        f"Above stock: {', '.join(above) or 'none'} of {len(rows)}. "
        f"Weight-sharing models above {SHARED_LIMIT} of stock, each where it is deepest: "
        f"{', '.join(missed) or 'none'} of {len(shared)}."
    )

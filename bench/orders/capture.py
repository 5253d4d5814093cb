"""Scheduler graphs of the models, without compiling them: what Inductor's scheduler holds before and after it fuses.

python -m bench capture                                 every model at its cpu size: its training step and its inference
python -m bench capture --models gpt unet --ac none     other checkpoint policies
python -m bench capture --device cuda                   lowered for a GPU at realistic sizes, on a machine without one

    MODEL.SIZE.POLICY.KIND.STAGE.json.gz     kind: forward, backward, inference; stage: prefusion, postfusion
    instances.jsonl                          a line for each: ops, buffers, stock's peaks, best peak, bound, status

What is in the folder is not captured again.  The bound and the best peak are memsched's, in `--time-limit` seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import MODELS, SIZES
from bench.run.cases import SUITES, Case, cases_of
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Options
from memsched.files.graph_file import read_graph, write_graph
from memsched.files.json_file import atomic_write
from memsched.search.orders.inductor import stock_orders
from memsched.search.solver import solve

__all__ = ["describe", "main", "update_index"]

if TYPE_CHECKING:
    from bench.orders.capture_graphs import Captured

INDEX = "instances.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Capture what the folder lacks, and keep its index up to date; 2 on bad arguments."""
    options = _parser().parse_args(arguments)
    size = options.size or options.device
    try:
        cases = cases_of(options.suite, options.models, size, "cpu", options.ac)
    except ValueError as error:
        print(f"bench capture: {error}", file=sys.stderr)
        return 2
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    kinds = [kind for kind in options.kinds if options.device == "cpu" or kind == "training"]
    todo = [(case, kind) for case in cases for kind in kinds if not _is_there(folder, case, kind)]
    with _capturer(options.device) as capture:
        for at, (case, kind) in enumerate(todo):
            print(f"[{at + 1}/{len(todo)}] {case}: {kind}", file=sys.stderr, flush=True)
            started = time.perf_counter()
            try:
                graphs = capture(case, kind)
            except Exception as error:
                failures += 1
                print(f"{case}: {kind}: {type(error).__name__}: {error}".splitlines()[0][:300], file=sys.stderr)
                continue
            _save(folder, case, graphs)
            update_index(folder, options.time_limit)
            print(f"    {len(graphs)} graphs, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    count = update_index(folder, options.time_limit)
    print(f"{count} graphs in {folder}, {failures} captures failed")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench capture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=SUITES, default="all")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help=f"any of {', '.join(MODELS)}")
    parser.add_argument("--size", choices=SIZES, help="sizes of the models (default: those of the device)")
    parser.add_argument("--ac", nargs="+", default=[], metavar="POLICY", help="default: each model's own")
    parser.add_argument("--kinds", nargs="+", choices=("training", "inference"), default=["training", "inference"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda needs no GPU; training only")
    parser.add_argument("--time-limit", type=float, default=2.0, metavar="S", help="of the solver, for each graph")
    parser.add_argument("--output", type=Path, default=Path("bench/instances/captured"), metavar="DIR")
    return parser


@contextlib.contextmanager
def _capturer(device: str) -> Iterator[Any]:
    """What captures on a device; for CUDA, a worker process that pretends to have a GPU."""
    if device == "cpu":
        from bench.orders.capture_graphs import capture_cpu

        yield capture_cpu
        return
    from memsched.inductor.cuda_without_gpu import CudaWorker

    with CudaWorker() as worker:
        yield lambda case, _: worker.call(
            "bench.orders.capture_graphs:capture_in_worker", case.model, case.size, case.policy
        )


def _stem(case: Case) -> str:
    return f"{case.model}.{case.size}.{case.policy}"


def _is_there(folder: Path, case: Case, kind: str) -> bool:
    some = "inference" if kind == "inference" else "forward"
    return any(folder.glob(f"{_stem(case)}.{some}.*"))


def _save(folder: Path, case: Case, graphs: Sequence[Captured]) -> None:
    """Write the graphs, with the peaks of stock's orders in each."""
    for captured in graphs:
        graph, name = captured.graph, f"{_stem(case)}.{captured.kind}.{captured.graph.stage}"
        peaks = {order: peak_bytes(graph, ops) for order, ops in stock_orders(graph).items()}
        named = Graph(name, graph.ops, graph.buffers, graph.order_edges, graph.torch, graph.device, graph.stage, peaks)
        write_graph(folder / f"{name}.json.gz", named)


def update_index(folder: Path, time_limit: float) -> int:
    """Solve every graph that the index lacks and write the index; how many graphs there are."""
    path = folder / INDEX
    lines = path.read_text().splitlines() if path.exists() else []
    index = {row["name"]: row for row in map(json.loads, lines)}
    files = {file.name.removesuffix(".json.gz"): file for file in sorted(folder.glob("*.json.gz"))}
    for name, file in files.items():
        if name not in index:
            index[name] = describe(name, read_graph(file), time_limit)
    rows = [index[name] for name in files]
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return len(rows)


def describe(name: str, graph: Graph, time_limit: float) -> dict[str, Any]:
    """The line of the index: `stock` is the least peak of Inductor's orders, `best` and `lb` are memsched's; bytes."""
    schedule = solve(graph, Options(time_limit))
    model, size, *policy, kind, stage = name.split(".")
    return {
        "name": name,
        "model": model,
        "size": size,
        "policy": ".".join(policy),
        "kind": kind,
        "stage": stage,
        "device": graph.device,
        "torch": graph.torch,
        "ops": len(graph.ops),
        "buffers": len(graph.buffers),
        "stock_peaks": dict(graph.stock_peaks),
        "stock": min(graph.stock_peaks.values()),
        "best": schedule.peak,
        "lb": schedule.lower_bound,
        "gap": schedule.gap,
        "status": schedule.status.value,
        "method": schedule.method,
    }

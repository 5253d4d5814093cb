"""The memory model held to the truth: modelled against replayed against measured peaks, in several orders.

    python -m bench memory-model                  CPU: 14 models, forward and backward, in three orders; resumable
    python -m bench memory-model --device cuda    the same for CUDA, planned without a GPU
    python -m bench memory-model --measure        also compiles them, in two of the orders, and reads the allocator
    python -m bench memory-model --table          only the table, from the rows that are there

Every graph is taken as stock fuses it, in Inductor's incoming order and in two random legal ones, with
`allow_buffer_reuse=False` (the model's page says why).  All peaks are above what is live when the graph begins, bytes:

    estimate    Inductor's own, for the same order (torch/_inductor/memory.py)
    modelled    memsched.storage.model, with kernel groups on CPU; against `measured` with workspaces too,
                which a replay cannot see (memsched.inductor.storages.workspaces)
    replayed    the generated wrapper, run with fake tensors (memsched.inductor.bytes.replay)
    measured    the allocator's, of the compiled graph (memsched.inductor.bytes.measure); CPU only

Rows go to bench/results/memory_model.json, the table to memory_model.md.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.models import Workload, build, fault_of_names
from bench.paths import RESULTS
from memsched.core.peak import peak_bytes
from memsched.core.result import Schedule, Status
from memsched.core.sizes import InputError
from memsched.files.json_file import atomic_write
from memsched.inductor.bytes.measure import trace_memory
from memsched.inductor.capture.lower import Way
from memsched.inductor.compat import SchedulerPass
from memsched.inductor.cuda_without_gpu import CudaUnavailable, CudaWorker, WorkerError, set_up
from memsched.inductor.cuda_without_gpu.capture import capture_step
from memsched.inductor.extract import extract_graph
from memsched.inductor.host import graph_kind
from memsched.inductor.questions.fake_step import build_step
from memsched.inductor.storages.build import model_of
from memsched.inductor.storages.emissions import emissions
from memsched.records.report import GraphReport
from memsched.search.orders.inductor import priority_order
from memsched.storage.kernel_groups import grouped_peak

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["main", "markdown", "rows_of", "workload"]

DEFAULT = (
    *("gpt", "moe", "contrastive", "siamese", "preference", "looped", "traversal", "unet"),
    *("resnet", "densenet", "squeezenet", "randwire_ws", "hf_bert", "hf_llama"),
)
SEEDS = (0, 1, 2)
"""0 is the incoming order; the others seed random legal orders."""

_MODELLED = {"replayed": "modelled", "measured": "with_workspaces"}
"""What the model says of each truth."""

Row = dict[str, Any]


class _InOrder(SchedulerPass):  # type: ignore[misc]
    """Puts the fused nodes into a legal order by a seed, and reports what the model says of it."""

    def __init__(self, seed: int, sink: Callable[[GraphReport], None]) -> None:
        self.seed = seed
        self.sink = sink

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        if not nodes:
            return nodes
        estimate = extract_graph(nodes, graph_kind(), "postfusion")
        randomly = random.Random(self.seed)
        order = priority_order(estimate, [randomly.random() if self.seed else at for at in range(len(nodes))])
        model = model_of(estimate, nodes)
        graph = model.graph_for(order)
        peak = grouped_peak(graph, order, emissions(nodes))
        replayable = replace(graph, ops=tuple(replace(op, workspace=0) for op in graph.ops))
        above_inputs = peak_bytes(estimate, order) - estimate.start_bytes
        self.sink(
            GraphReport.planned(
                graph,
                Schedule(order, peak, 0, Status.HEURISTIC, "given", 0.0),
                name=graph_kind(),
                kind=graph_kind(),
                stock_peak=above_inputs,
                peak=peak - graph.start_bytes,
                emitted_peak=grouped_peak(replayable, order, emissions(nodes)) - graph.start_bytes,
                kernels=len(nodes),
            )
        )
        return [nodes[op] for op in order]

    def uuid(self) -> str:
        return f"memsched in order {self.seed}"


def _patches(seed: int, sink: Callable[[GraphReport], None]) -> dict[str, Any]:
    return {
        "_post_fusion_custom_pass": _InOrder(seed, sink),
        "reorder_for_peak_memory": False,
        "allow_buffer_reuse": False,
    }


def _way(seed: int) -> Way:
    reports: list[GraphReport] = []
    return Way(f"order {seed}", _patches(seed, reports.append), reports=reports)


def workload(name: str, size: str) -> Workload:
    """The model at a size; for `build_step`."""
    return build(name, size)


def rows_of(name: str, size: str, device: str) -> list[Row]:
    """One row for each graph and order: estimate, modelled and replayed."""
    step = build_step("bench.memory.model:workload", {"name": name, "size": size}, device)
    captured, _ = capture_step(step, [_way(seed) for seed in SEEDS])
    rows = []
    for seed, graphs in zip(SEEDS, captured, strict=True):
        for graph in graphs:
            report = graph.report
            rows.append(
                {
                    "model": name,
                    "device": device,
                    "graph": report.kind,
                    "order": "incoming" if not seed else f"random {seed}",
                    "ops": report.ops,
                    "estimate": report.stock_peak,
                    "modelled": report.emitted_peak,
                    "with_workspaces": report.peak,
                    "replayed": graph.replayed,
                }
            )
    return rows


def rows_of_cuda(name: str, size: str) -> list[Row]:
    """`rows_of` for CUDA; called in a worker."""
    from memsched.inductor.cuda_without_gpu.pretend import Gpu, pretend_gpu
    from memsched.inductor.cuda_without_gpu.worker import show_device

    with pretend_gpu(show_device, Gpu()):
        return rows_of(name, size, "cuda")


def measured_peaks(name: str, size: str, seed: int) -> dict[str, int]:
    """Peaks of the compiled forward and backward graphs, by the allocator; bytes above what is live at their begin."""
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    peaks: dict[str, int] = {}

    def compile_measured(*args: Any, **kwargs: Any) -> Any:
        compiled = compile_fx_inner(*args, **kwargs)
        kind = "backward" if kwargs.get("is_backward") else "forward"

        def call(inputs: list[Any]) -> Any:
            results: list[Any] = []
            peaks[kind] = trace_memory(lambda: results.append(compiled(inputs))).peak
            return results.pop()

        call._boxed_call = True  # type: ignore[attr-defined]
        return call

    def backend(gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        patches = {**_patches(seed, lambda _report: None), "fx_graph_cache": False}
        return compile_fx(gm, example_inputs, inner_compile=compile_measured, config_patches=patches)

    torch._dynamo.reset()
    built = build(name, size)
    compiled = torch.compile(built.model, backend=backend, dynamic=False)
    for _ in range(2):
        result = compiled(*built.batch)
        loss = result if isinstance(result, Tensor) else result[0]
        loss.backward()
        del result, loss
    torch._dynamo.reset()
    return peaks


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill in what is missing, write rows and table; 0 when done, 2 on bad input."""
    options = _parser().parse_args(arguments)
    fault = fault_of_names(options.models)
    if fault:
        print(f"bench memory-model: {fault}", file=sys.stderr)
        return 2
    file = Path(options.output) / "memory_model.json"
    rows: list[Row] = json.loads(file.read_text())["rows"] if file.exists() else []
    try:
        for name in [] if options.table else options.models:
            rows = _with_rows(rows, name, options, file)
        if options.measure:
            _measure(rows, options, file)
    except (CudaUnavailable, InputError, WorkerError) as error:
        print(f"bench memory-model: {error}", file=sys.stderr)
        return 2
    _write(rows, file)
    print(markdown(rows))
    return 0


def _with_rows(rows: list[Row], name: str, options: argparse.Namespace, file: Path) -> list[Row]:
    if any(row["model"] == name and row["device"] == options.device for row in rows) and not options.again:
        return rows
    print(f"{name}, {options.device}", file=sys.stderr)
    if options.device == "cuda":
        set_up(lambda text: print(text, file=sys.stderr))
        with CudaWorker() as worker:
            new = worker.call("bench.memory.model:rows_of_cuda", name, options.size)
    else:
        new = rows_of(name, options.size, "cpu")
    # What was measured does not depend on the model.
    measured = {_key(row): row["measured"] for row in rows if "measured" in row}
    new = [row | ({"measured": measured[_key(row)]} if _key(row) in measured else {}) for row in new]
    rows = [row for row in rows if (row["model"], row["device"]) != (name, options.device)] + new
    _write(rows, file)
    return rows


def _key(row: Row) -> tuple[str, ...]:
    return row["model"], row["device"], row["graph"], row["order"]


def _measure(rows: list[Row], options: argparse.Namespace, file: Path) -> None:
    for name in options.models:
        for seed in SEEDS[:2]:
            order = "incoming" if not seed else f"random {seed}"
            mine = [r for r in rows if (r["model"], r["device"], r["order"]) == (name, "cpu", order)]
            if mine and any("measured" not in row for row in mine):
                print(f"{name}, {order}: compiling", file=sys.stderr)
                peaks = measured_peaks(name, options.size, seed)
                for row in mine:
                    row["measured"] = peaks[row["graph"]]
                _write(rows, file)


def _write(rows: list[Row], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps({"torch": torch.__version__, "rows": rows}, indent=1).encode() + b"\n")
    atomic_write(file.with_suffix(".md"), markdown(rows).encode())


def markdown(rows: Sequence[Row]) -> str:
    """A summary by device, and one line for each graph: the worst of its orders."""
    lines = ["| device | against | graphs | cases | exact | within 0.5% | within 2% | worst | worst of the estimate |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for device in sorted({row["device"] for row in rows}):
        for truth in ("replayed", "measured"):
            some = [row for row in rows if row["device"] == device and row.get(truth)]
            if some:
                lines.append(_summary(device, truth, some))
    lines += [
        "",
        "| model | device | graph | ops | replayed MiB | modelled, worst | estimate, worst | measured, worst |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for key in dict.fromkeys((row["model"], row["device"], row["graph"]) for row in rows):
        lines.append(_line([row for row in rows if (row["model"], row["device"], row["graph"]) == key]))
    return "\n".join(lines) + "\n"


def _summary(device: str, truth: str, rows: Sequence[Row]) -> str:
    errors = [abs(_error(row, _MODELLED[truth], truth)) for row in rows]
    graphs = len({(row["model"], row["graph"]) for row in rows})
    shares = [f"{sum(error <= limit for error in errors) / len(errors):.0%}" for limit in (0, 0.005, 0.02)]
    worst_estimate = max(abs(_error(row, "estimate", truth)) for row in rows)
    columns = [device, truth, str(graphs), str(len(rows)), *shares, f"{max(errors):.2%}", f"{worst_estimate:.0%}"]
    return f"| {' | '.join(columns)} |"


def _line(rows: Sequence[Row]) -> str:
    def worst(column: str, truth: str) -> str:
        errors = [_error(row, column, truth) for row in rows if truth in row]
        return f"{max(errors, key=abs):+.2%}" if errors else ""

    first = rows[0]
    head = f"{first['model']} | {first['device']} | {first['graph']} | {first['ops']} | {first['replayed'] / 2**20:.2f}"
    modelled, estimate = worst("modelled", "replayed"), worst("estimate", "replayed")
    return f"| {head} | {modelled} | {estimate} | {worst(_MODELLED['measured'], 'measured')} |"


def _error(row: Row, column: str, truth: str) -> float:
    return float((row[column] - row[truth]) / max(1, row[truth]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench memory-model", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=DEFAULT, metavar="NAME")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=("small", "cpu"), default="small", help="of the models (default: small)")
    parser.add_argument("--measure", action="store_true", help="also compile them (minutes for each)")
    parser.add_argument("--table", action="store_true", help="only the table, from the rows that are there")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("-o", "--output", default=str(RESULTS), metavar="FOLDER")
    return parser

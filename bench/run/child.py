"""One case in a process of its own: `python -m bench run-child TASK.json EVENTS.jsonl`.

The task names the case, the modes, and how often to repeat the step for its time.  Events are appended as they happen,
so that nothing is lost when the process is killed:

    {"doing": "compiling stock", "mode": "stock"}      what would be to blame
    {"row": {...}}                                     a mode is measured
    {"seconds": {"eager": 0.1, "stock": 0.07}}         step times, taken in alternation, at the end
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.memory.no_kernels import kernels_that_do_nothing
from bench.models import Workload, build
from bench.run.cases import LOWERED, Case, Depth, Row
from bench.run.gradients import check_gradients
from bench.run.memory import measure_step, tensor_bytes
from bench.run.step import clear_gradients, seconds_in_alternation, training_step
from memsched.core.peak import peak_bytes
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.failures import reason_of
from memsched.inductor.observe import ObservingPass
from memsched.inductor.options import BackendOptions
from memsched.records.published import reports, reset
from memsched.records.report import GraphReport
from memsched.search.exact.problem import Problem
from memsched.search.exact.reduce import reduce_series_parallel
from memsched.series_parallel.recognize import Decomposition, recognize

__all__ = ["describe_graphs", "lower", "main"]


class _Run:
    """The modes of one case, one after the other."""

    def __init__(self, task: dict[str, Any], events: Path) -> None:
        self.case = Case(**task["case"])
        self.modes: list[str] = task["modes"]
        self.repetitions: int = task["repetitions"]
        self.depth = Depth(task["depth"])
        self.events = events
        self.steps: dict[str, Callable[[], None]] = {}

    def tell(self, event: dict[str, Any]) -> None:
        with self.events.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def __call__(self) -> None:
        case = self.case
        self.tell({"doing": "building the model", "mode": None})
        workload = build(case.model, case.size, case.device, policy=case.policy, batch=case.batch)
        self.reference = copy.deepcopy(workload.model)
        self.reference(*workload.batch).backward()
        with workload.policy.settings():
            if self.depth is Depth.KERNELS and set(self.modes) & set(LOWERED):
                self.tell({"doing": "compiling the C++ headers", "mode": None})
                torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=case.device))
            for mode in self.modes:
                self.measure(mode, workload)
            if self.repetitions and self.steps:
                self.tell({"doing": "timing", "mode": None})
                seconds = seconds_in_alternation(self.steps, self.repetitions, case.device)
                # The least of all runs: what the machine can do undisturbed.
                self.tell({"seconds": {mode: min(each) for mode, each in seconds.items()}})

    def measure(self, mode: str, workload: Workload) -> None:
        row: Row = asdict(self.case) | {"mode": mode, "status": "ok", "reason": "", "measured": False}
        row["parameter_bytes"] = tensor_bytes(workload.model.parameters())
        row["batch_bytes"] = tensor_bytes(workload.batch)
        try:
            if self.depth is Depth.LOWERED and mode in LOWERED:
                self.tell({"doing": f"lowering {mode}", "mode": mode})
                row |= lower(mode, workload)
            else:
                without = self.depth is Depth.BYTES and mode != "eager"
                with kernels_that_do_nothing() if without else contextlib.nullcontext():
                    row |= self.run(mode, workload)
        except Exception as error:
            row |= {"status": _status(error), "reason": reason_of(error)}
        self.tell({"row": row})

    def run(self, mode: str, workload: Workload) -> Row:
        """Compile, check, measure; the step is kept for timing."""
        self.tell({"doing": f"{'running' if mode == 'eager' else 'compiling'} {mode}", "mode": mode})
        model = copy.deepcopy(workload.model)
        torch._dynamo.reset()
        reset()
        forward = compiled(model, mode)
        step = training_step(model, forward, workload.batch)
        started = time.perf_counter()
        step()
        seconds = time.perf_counter() - started
        row: Row = {"measured": True}
        if mode != "eager":
            row |= {"compile_seconds": seconds} | describe_graphs(mode, reports())
        if self.depth is Depth.KERNELS:
            row |= {"difference": self.check(mode, model, workload)}
        self.tell({"doing": f"measuring {mode}", "mode": mode})
        step()
        clear_gradients(model)
        row |= asdict(measure_step(model, forward, workload.batch, self.case.device))
        self.steps[mode] = step
        return row

    def check(self, mode: str, model: nn.Module, workload: Workload) -> float:
        """The largest difference of a gradient from eager's; raises AssertionError when it is more than rounding."""

        def again(other: nn.Module) -> Callable[..., Tensor]:
            self.tell({"doing": f"compiling {mode} in double precision", "mode": mode})
            return compiled(other, mode)

        return check_gradients(model, self.reference, workload, again)


def compiled(model: nn.Module, mode: str) -> Callable[..., Tensor]:
    """`model` under one of the modes."""
    if mode == "eager":
        return model
    if mode == "aot_eager":
        return torch.compile(model, backend="aot_eager", dynamic=False)  # type: ignore[no-any-return]
    if mode in ("order", "memsched"):
        options = {"fusion": "stock"} if mode == "order" else {}
        return torch.compile(model, backend="memsched", dynamic=False, options=options)  # type: ignore[no-any-return]
    stock = {"_post_fusion_custom_pass": ObservingPass(), "reorder_for_peak_memory": mode == "stock"}
    return torch.compile(model, dynamic=False, options=stock)  # type: ignore[no-any-return]


def lower(mode: str, workload: Workload) -> Row:
    """The modelled figures of a mode without compiling: Inductor plans, nothing is generated."""
    model = copy.deepcopy(workload.model)
    if mode in ("order", "memsched"):
        options = BackendOptions(fusion="stock" if mode == "order" else "plan")
        return describe_graphs(mode, plan_only(model, workload.batch, options))
    return describe_graphs(mode, plan_only(model, workload.batch, stock=True))


def describe_graphs(mode: str, graphs: Sequence[GraphReport]) -> Row:
    """What is modelled: of each graph, and of the step, whose peak is the largest of its graphs' peaks."""
    described = [_describe_graph(mode, graph) for graph in graphs]
    if not described:
        return {"graphs": []}
    row: Row = {
        "graphs": described,
        "kernels": sum(graph["kernels"] for graph in described),
        "modelled": max(graph["peak"] for graph in described),
        "planner_seconds": 0.0,
    }
    if mode in ("order", "memsched"):
        row["planner_seconds"] = sum(graph.seconds for graph in graphs)
        row["bound"] = max(graph.lower_bound for graph in graphs)
        row["gap"] = row["modelled"] / row["bound"] - 1 if row["bound"] else 0.0
        row["plan"] = "optimal" if row["modelled"] == row["bound"] else "bounded"
        row["fusions_refused"] = sum(graph.fusions_refused for graph in graphs)
        fallbacks = [graph.fallback for graph in graphs if graph.fallback]
        if fallbacks:
            row |= {"plan": "fallback", "reason": fallbacks[0]}
    return row


def _describe_graph(mode: str, report: GraphReport) -> Row:
    peak = report.peak
    described: Row = {"kind": report.kind, "ops": report.ops, "kernels": report.kernels}
    if report.graph is not None:
        if mode == "stock_no_reorder":
            peak = peak_bytes(report.graph, range(len(report.graph.ops)))
        described |= {
            "series_parallel": isinstance(recognize(report.graph), Decomposition),
            "kernel_size": len(reduce_series_parallel(Problem.from_graph(report.graph))),
        }
    described |= {"peak": peak, "bound": report.lower_bound, "status": report.status, "method": report.method}
    return described | {"seconds": report.seconds}


def _status(error: Exception) -> str:
    if isinstance(error, AssertionError) and "gradient" in str(error):
        return "wrong"
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
    return "out of memory" if memory else "failed"


def main(arguments: Sequence[str]) -> int:
    """Run the task; see the module."""
    task, events = arguments
    _Run(json.loads(Path(task).read_text()), Path(events))()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

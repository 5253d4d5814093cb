"""What one process of `python -m bench gpu` measures: `python -m bench.gpu.tasks TASK.json EVENTS.jsonl`.

    memory      one step of a model in eager, stock and memsched: peaks of its halves, what is reserved, what was
                modelled for each graph, gradients against eager's (`bench/run/memory.py` measures)
    train_step  forward, backward and AdamW: compiled model and its optimizer, against one plan of all of it
    graphs      CUDA graphs (mode "reduce-overhead"), stock and memsched
    times       steps in alternation; compiled before, so that the compiler's cache has the kernels

A row is appended as soon as it is known; a failure is a row.  Bytes are above what is alive before the step; those of
CUDA graphs, which keep their pool, are all that the process holds.  On a CPU
the commands are only tried, at the smallest sizes and with kernels that do nothing: bytes are real, values are not.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import memsched
from bench.memory.cuda_plans import step as at_cuda_size
from bench.memory.no_kernels import kernels_that_do_nothing
from bench.models import Workload, build
from bench.run.child import compiled
from bench.run.memory import measure_step
from bench.run.step import clear_gradients, compare_gradients, seconds_in_alternation, training_step
from memsched.inductor.bytes.measure import measure_peak
from memsched.inductor.failures import reason_of

__all__ = ["MODES", "TASKS", "main"]

MODES = ("eager", "stock", "memsched")
_REPETITIONS = 12
Row = dict[str, Any]


def _workload(model: str, device: str, layers: int) -> Workload:
    """At its real width with few layers on a GPU; at its smallest size on a CPU."""
    torch.manual_seed(0)
    if device == "cpu":
        return build(model, "small", device)
    workload = at_cuda_size(model, layers)
    batch = tuple(tensor.to(device) for tensor in workload.batch)
    return Workload(workload.name, workload.model.to(device), batch, workload.policy)


def _memory(workload: Workload, device: str) -> Iterator[Row]:
    reference: nn.Module | None = None
    for mode in MODES:
        yield {"way": mode} | _caught(partial(_one_mode, workload, device, mode, reference))
        if mode == "eager" and device != "cpu":
            reference = copy.deepcopy(workload.model)
            reference(*workload.batch).backward()


def _one_mode(workload: Workload, device: str, mode: str, reference: nn.Module | None) -> Row:
    torch._dynamo.reset()
    memsched.reset()
    model = copy.deepcopy(workload.model)
    with workload.policy.settings():
        forward = compiled(model, mode)
        step = training_step(model, forward, workload.batch)
        step()
        row: Row = {"graphs": [_graph(report) for report in memsched.reports()]}
        if reference is not None:
            row["difference"] = compare_gradients(model, reference, 1e-1)
        step()
        clear_gradients(model)
        memory = asdict(measure_step(model, forward, workload.batch, device))
        clear_gradients(model)
        return row | memory


def _graph(report: memsched.GraphReport) -> Row:
    return {
        "name": report.name, "peak": report.generated_peak, "bound": report.lower_bound,
        "stock": report.stock_peak, "fallback": report.fallback, "planner_seconds": round(report.seconds, 2),
    }  # fmt: skip


def _train_step(workload: Workload, device: str) -> Iterator[Row]:
    yield {"way": "stock, then AdamW"} | _caught(lambda: _apart(workload, device))
    yield {"way": "train_step, AdamW"} | _caught(lambda: _joined(workload, device))


def _apart(workload: Workload, device: str) -> Row:
    torch._dynamo.reset()
    model = copy.deepcopy(workload.model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    forward = compiled(model, "stock")

    def step() -> None:
        forward(*workload.batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    with workload.policy.settings():
        step()
        step()
        return {"peak": measure_peak(step, device)}


def _joined(workload: Workload, device: str) -> Row:
    torch._dynamo.reset()
    model = copy.deepcopy(workload.model)
    with workload.policy.settings():
        step = memsched.train_step(model, torch.optim.AdamW(model.parameters(), 1e-3))
        step(*workload.batch)
        step(*workload.batch)
        peak = measure_peak(lambda: step(*workload.batch), device)
    assert step.report is not None
    return {"peak": peak, "graphs": [_graph(step.report.plan)]}


def _graphs(workload: Workload, device: str) -> Iterator[Row]:
    for way in ("stock", "memsched"):
        yield {"way": f"{way}, reduce-overhead"} | _caught(partial(_recorded, workload, device, way))


def _recorded(workload: Workload, device: str, way: str) -> Row:
    """Warm-up, recording, replay; then everything that the process holds, since a graph keeps its pool."""
    torch._dynamo.reset()
    memsched.reset()
    model = copy.deepcopy(workload.model)
    backend = "inductor" if way == "stock" else "memsched"
    with workload.policy.settings():
        forward = torch.compile(model, backend=backend, mode="reduce-overhead", dynamic=False)
        step = training_step(model, forward, workload.batch)
        for _ in range(4):
            torch.compiler.cudagraph_mark_step_begin()
            step()
        if device == "cpu":
            return {"peak": measure_peak(step)}
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return {"peak": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.memory_reserved()}


def _times(workload: Workload, device: str) -> Iterator[Row]:
    steps = {}
    with workload.policy.settings():
        for mode in MODES:
            torch._dynamo.reset()
            model = copy.deepcopy(workload.model)
            steps[mode] = training_step(model, compiled(model, mode), workload.batch)
            steps[mode]()
        seconds = seconds_in_alternation(steps, _REPETITIONS, device)
    for mode, spent in seconds.items():
        yield {"way": mode, "status": "ok", "seconds": min(spent)}


TASKS: dict[str, Callable[[Workload, str], Iterator[Row]]] = {
    "memory": _memory,
    "train_step": _train_step,
    "graphs": _graphs,
    "times": _times,
}


def _caught(run: Callable[[], Row]) -> Row:
    """What it gives, or why it does not; in one row."""
    try:
        return {"status": "ok"} | run()
    except Exception as error:
        return {"status": "failed", "reason": reason_of(error)}


def main(arguments: Sequence[str]) -> int:
    """Run the task, appending its rows."""
    task = json.loads(Path(arguments[0]).read_text())
    without = kernels_that_do_nothing() if task["device"] == "cpu" else contextlib.nullcontext()
    with Path(arguments[1]).open("a") as events, without:
        for row in _rows(task):
            events.write(
                json.dumps({"task": task["task"], "model": task["model"], "layers": task["layers"]} | row) + "\n"
            )
            events.flush()
    return 0


def _rows(task: dict[str, Any]) -> Iterator[Row]:
    try:
        workload = _workload(task["model"], task["device"], task["layers"])
    except Exception as error:  # a package that is not there, a model that does not fit
        yield {"way": "", "status": "failed", "reason": reason_of(error)}
        return
    yield from TASKS[task["task"]](workload, task["device"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

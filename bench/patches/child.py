"""What the patches for PyTorch do to one model, in a process that runs under the overlay of all of them.

    python -m memsched.patching.overlay -- bench.patches.child lower NAME[:SIZE]...  modelled: lowering, no C++ compiler
    python -m memsched.patching.overlay -- bench.patches.child step NAME...          measured: bytes, seconds, gradients

Each patch can be switched off where it acts (a config flag, the list of candidate orders), and switched off it is
stock; so one process gives every combination, and step times can be taken in alternation.  A line of JSON for each
model; names are those of the registry, with a size or without (`gpt:small`), and of the zoo (`zoo:lstm`).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch._inductor import config, memory
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.virtualized import V

from bench.models import build
from bench.models.zoo import ZOO
from bench.run.gradients import check_gradients
from bench.run.step import clear_gradients, seconds_in_alternation, training_step
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.inductor.bytes.measure import measure_peak
from memsched.inductor.capture.lower import run_uncompiled
from memsched.inductor.compat import SchedulerPass
from memsched.inductor.extract import extract_graph
from memsched.inductor.failures import reason_of
from memsched.inductor.host import graph_kind, num_kernels, stock_reorder
from memsched.inductor.stopping import stop_compile, stopped
from memsched.inductor.storages.build import model_of

__all__ = ["WAYS", "main", "patched"]

WAITING, PLACE, CHAIN, CUTS, ENTRIES = 1, 2, 3, 4, 5
"""The patches by their numbers."""

WAYS: dict[str, tuple[int, ...]] = {
    "stock": (),
    "1": (WAITING,),
    "2": (PLACE,),
    "1+2": (WAITING, PLACE),
    "1+2+4": (WAITING, PLACE, CUTS),
    "1+2+5": (WAITING, PLACE, ENTRIES),
}
"""The combinations that are reported.  Patch 3 changes no order, only how deep a graph may be."""

MEASURED = ("stock", "1+2", "1+2+4", "1+2+5")
"""Those that are compiled and run; eager is beside them."""

ESTIMATED = ("1+2", "1+2+4")
"""The combinations for which it is told what an estimate without error would choose among the same orders."""

MAX_CUTS = 32
"""`config.reorder_for_peak_memory_max_cuts` where patch 4 is on."""


@contextlib.contextmanager
def patched(patches: Sequence[int]) -> Iterator[None]:
    """Within the context Inductor compiles as with these patches alone."""
    methods = [memory.topological_sort_lpmf, memory.topological_sort_bfs, memory.topological_sort_dfs]
    if PLACE in patches:
        methods.append(memory.topological_sort_by_place)
    settings = config.patch(
        prevent_waiting_fusion=WAITING in patches,
        reorder_for_peak_memory_max_cuts=MAX_CUTS if CUTS in patches else 0,
        force_disable_caches=True,
    )
    cut = functorch_config.patch(save_checkpoint_entries=ENTRIES in patches)
    with cut, settings, mock.patch.object(memory.reorder_for_peak_memory, "__defaults__", (methods,)):
        yield


class _Observe(SchedulerPass):  # type: ignore[misc]
    """Peaks of one graph, as fused, under the order of every way that fuses alike; then the compile ends."""

    def __init__(self, ways: dict[str, tuple[int, ...]], found: dict[str, list[dict[str, Any]]]) -> None:
        self.ways = ways
        self.found = found

    def __call__(self, nodes: list[Any]) -> list[Any]:
        if nodes:
            graph = _without_local_buffers(extract_graph(nodes, "graph", "postfusion"), nodes)
            index = {node: at for at, node in enumerate(nodes)}
            for name, patches in self.ways.items():
                with patched(patches):
                    started = time.perf_counter()
                    order = [index[node] for node in stock_reorder(nodes)]
                    seconds = time.perf_counter() - started
                row = {"kind": graph_kind(), "nodes": len(nodes), "kernels": num_kernels(nodes)}
                row |= {"peak": peak_bytes(graph, order), "order_seconds": seconds}
                self.found[name].append(row | (_allocated(nodes, order) if name in ESTIMATED else {}))
        stop_compile()

    def uuid(self) -> str:
        return "bench patches"


def _allocated(nodes: list[Any], chosen: Sequence[int]) -> dict[str, int]:
    """Bytes that the wrapper really needs: under the order that the estimate chose, and the least of any candidate's.

    To be called under the patches in question.
    """
    model = model_of(extract_graph(nodes, "graph", "postfusion"), nodes)
    index = {node: at for at, node in enumerate(nodes)}
    (methods,) = memory.reorder_for_peak_memory.__defaults__
    orders = [list(range(len(nodes))), list(chosen)]
    for method in methods:
        with mock.patch.object(memory.reorder_for_peak_memory, "__defaults__", ([method],)):
            orders.append([index[node] for node in stock_reorder(nodes)])
    return {"allocated": model.peak(chosen), "allocated_least": min(map(model.peak, orders))}


def _without_local_buffers(graph: Graph, nodes: Sequence[Any]) -> Graph:
    """Inductor's estimate without what a fused kernel keeps in registers; in-place updates are not known to either."""
    removable = V.graph.scheduler.can_buffer_be_removed_through_fusion
    local = {
        buffer.name
        for buffer in graph.buffers
        if buffer.producer is not None
        and not (buffer.consumers or buffer.kept)
        and len(nodes[buffer.producer].get_nodes()) > 1
        and removable(buffer.name, nodes[buffer.producer].get_operation_names())
    }
    return dataclasses.replace(graph, buffers=tuple(buffer for buffer in graph.buffers if buffer.name not in local))


def lower(name: str) -> dict[str, Any]:
    """Modelled peak (the larger graph's), kernels and seconds of every way.  The model is Inductor's own estimate."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    seconds = dict.fromkeys((False, True), 0.0)

    def compile_graph(gm: torch.fx.GraphModule, example_inputs: Sequence[Any], **how: Any) -> None:
        for waits in (False, True):
            alike = {way: patches for way, patches in ways.items() if (WAITING in patches) == waits}
            if not alike:
                continue
            settings = config.patch(_post_fusion_custom_pass=_Observe(alike, found), fx_graph_cache=False)
            own = torch.fx.GraphModule(gm, copy.deepcopy(gm.graph))
            started = time.perf_counter()
            with patched((WAITING,) if waits else ()), settings, stopped():
                compile_fx_inner(own, example_inputs, **how)
            seconds[waits] += time.perf_counter() - started

    model, batch = _example(name)
    for entries in (False, True):
        _tell(f"{name}: lowering {'with' if entries else 'without'} patch {ENTRIES}")
        ways = {way: patches for way, patches in WAYS.items() if (ENTRIES in patches) == entries}
        with functorch_config.patch(save_checkpoint_entries=entries):
            run_uncompiled(model, batch, compile_graph)
    rows = {}
    for way, graphs in found.items():
        rows[way] = {
            "peak": max((graph["peak"] for graph in graphs), default=0),
            "kernels": sum(graph["kernels"] for graph in graphs),
            "lower_seconds": seconds[WAITING in WAYS[way]],
            "order_seconds": sum(graph["order_seconds"] for graph in graphs),
            "graphs": [{key: graph[key] for key in ("kind", "nodes", "kernels", "peak")} for graph in graphs],
        }
    for way in ESTIMATED:
        for key in ("allocated", "allocated_least"):
            rows[way][key] = max((graph[key] for graph in found[way]), default=0)
    return {"model": name, "kind": "lowered", "ways": rows}


def step(name: str, repetitions: int = 9) -> dict[str, Any]:
    """Measured bytes and seconds of a training step: eager, stock, and stock with patches.

    Raises:
        AssertionError: gradients that differ by more than rounding.
    """
    workload = build(name)
    _compile_something()  # the C++ headers of a first compile are on nobody's account
    ways = {"eager": None} | {way: WAYS[way] for way in MEASURED}
    steps: dict[str, Callable[[], None]] = {}
    rows: dict[str, dict[str, Any]] = {}
    models = {way: copy.deepcopy(workload.model) for way in ways}
    for way, patches in ways.items():
        _tell(f"{name}: {'running' if patches is None else 'compiling'} {way}")
        model = models[way]
        torch._dynamo.reset()
        forward = model if patches is None else torch.compile(model)
        steps[way] = training_step(model, forward, workload.batch)
        started = time.perf_counter()
        with contextlib.nullcontext() if patches is None else patched(patches):
            steps[way]()
            rows[way] = {"compile_seconds": None if patches is None else time.perf_counter() - started}
            if patches is not None:
                check_gradients(model, models["eager"], workload, torch.compile)
        steps[way]()
        clear_gradients(model)
        rows[way]["peak"] = measure_peak(steps[way])
    _tell(f"{name}: timing")
    for way, taken in seconds_in_alternation(steps, repetitions).items():
        rows[way]["seconds"] = statistics.median(taken)
    return {"model": name, "kind": "measured", "ways": rows}


def _tell(doing: str) -> None:
    print(doing, file=sys.stderr, flush=True)


def _compile_something() -> None:
    torch.compile(lambda x: x.sin().sum())(torch.ones(64))


def _example(name: str) -> tuple[Any, Sequence[Tensor]]:
    if name.startswith("zoo:"):
        torch.manual_seed(0)
        return ZOO[name.removeprefix("zoo:")]()
    model, _, size = name.partition(":")
    workload = build(model, size or "cpu")
    return workload.model, workload.batch


def main(arguments: Sequence[str]) -> int:
    """One line of JSON on stdout for each model; a model that fails is a line with its error."""
    what, *names = arguments
    run = {"lower": lower, "step": step}[what]
    for name in names:
        try:
            row = run(name)
        except Exception as error:
            row = {"model": name, "kind": what, "error": reason_of(error)}
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

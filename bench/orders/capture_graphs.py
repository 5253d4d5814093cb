"""The scheduler's graphs of one step, before and after stock's fusion, as Inductor itself counts them.

On CPU the traced graphs run while Inductor lowers copies of them, and stops after fusion.  For CUDA the step is on fake
tensors in a worker process that pretends to have a GPU (`memsched.inductor.cuda_without_gpu`).  Either way a graph is
what `extract_graph` makes of the scheduler's nodes, without the buffers that a fused kernel keeps to itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx_inner

from bench.models import build
from bench.run.cases import Case
from memsched.core.graph import Graph
from memsched.inductor.capture.lower import run_uncompiled
from memsched.inductor.compat import SchedulerPass
from memsched.inductor.extract import extract_graph
from memsched.inductor.host import graph_kind
from memsched.inductor.stopping import stop_compile, stopped
from memsched.inductor.storages.local_buffers import kernel_local, thread_local

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["Captured", "capture_cpu", "capture_in_worker"]


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph with what it is a graph of: forward, backward or inference."""

    kind: str
    graph: Graph


class _CapturePass(SchedulerPass):  # type: ignore[misc]
    """Keeps the graph of the nodes that it is given, then runs another pass or stops the compile."""

    def __init__(
        self, stage: str, found: list[Captured], then: SchedulerPass | None = None, stop: bool = False
    ) -> None:
        self.stage, self.found, self.then, self.stop = stage, found, then, stop

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        if nodes:
            kind = graph_kind()
            graph = extract_graph(nodes, kind, self.stage)
            if self.stage == "postfusion":
                graph = _without(graph, kernel_local(nodes) | thread_local(nodes))
            self.found.append(Captured(kind, graph))
        if self.stop:
            stop_compile()
        return nodes if self.then is None else self.then(nodes)

    def uuid(self) -> str:
        return "memsched's benchmark captures"


def _without(graph: Graph, local: set[str]) -> Graph:
    """`graph` without buffers that live inside one kernel: Inductor's estimate counts them, nothing allocates them."""
    kept = tuple(buffer for buffer in graph.buffers if buffer.name not in local or buffer.kept or buffer.consumers)
    return Graph(graph.name, graph.ops, kept, graph.order_edges, graph.torch, graph.device, graph.stage)


def capture_cpu(case: Case, kind: str) -> list[Captured]:
    """The graphs of one case; kind: "training", or "inference" for the forward pass without gradients."""
    workload = build(case.model, case.size, policy=case.policy, batch=case.batch)
    found: list[Captured] = []
    patches = {
        "_pre_fusion_custom_pass": _CapturePass("prefusion", found),
        "_post_fusion_custom_pass": _CapturePass("postfusion", found, stop=True),
        "fx_graph_cache": False,
    }

    def lower(gm: torch.fx.GraphModule, example_inputs: Sequence[Any], **how: bool) -> None:
        with config.patch(patches), stopped():
            compile_fx_inner(gm, example_inputs, **how)

    no_gradients = torch.no_grad() if kind == "inference" else contextlib.nullcontext()
    with workload.policy.settings(), no_gradients:
        run_uncompiled(workload.model, workload.batch, lower)
    return found


def capture_in_worker(model: str, size: str, policy: str) -> list[Captured]:
    """The graphs of a training step for CUDA; called in a worker."""
    from memsched.inductor.capture.lower import Way
    from memsched.inductor.cuda_without_gpu.capture import build_step, capture_step
    from memsched.inductor.cuda_without_gpu.pretend import Gpu, pretend_gpu
    from memsched.inductor.cuda_without_gpu.worker import report_progress, show_device
    from memsched.inductor.observe import ObservingPass

    after: list[Captured] = []
    way = Way("stock", {"_post_fusion_custom_pass": _CapturePass("postfusion", after, then=ObservingPass())})
    with pretend_gpu(show_device, Gpu()):
        step = build_step("bench.models:build", {"name": model, "size": size, "policy": policy}, "cuda")
        (planned,), _ = capture_step(step, [way], progress=report_progress)
    before = [Captured(graph.report.kind, graph.prefusion) for graph in planned if graph.prefusion is not None]
    return before + after

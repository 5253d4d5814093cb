"""Planning a step in the worker: Inductor's own pipeline up to the source of each wrapper, which is kept.

`compile_fx` runs as in any compile: tracing, autograd, the cut into forward and backward.  Each graph that it hands on
is then lowered, fused, ordered and written as a wrapper; the traced graph runs in its place on fake tensors.  All of it
once for every `Way` that was asked for.

    step = build_step("train:step", {}, "cuda")
    (stock, planned), note = capture_step(step, [stock_way(), planned_way(BackendOptions())])  # lists of PlannedGraph

With device "cpu" the same runs in any process, without the shim and without pretending.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.compile_fx import compile_fx

from memsched.core.graph import Graph
from memsched.core.sizes import InputError
from memsched.inductor.calls import call_model
from memsched.inductor.capture.lower import Way, lower, planned_way, stock_way, traced_anew
from memsched.inductor.capture.one_graph import past_messages_of
from memsched.inductor.capture.wrapper_source import Wrapper, capture_wrappers
from memsched.inductor.compat import SchedulerPass
from memsched.inductor.cuda_without_gpu.plans import PlannedGraph, StepPlan
from memsched.inductor.extract import extract_graph
from memsched.inductor.failures import break_of, reason_of
from memsched.inductor.host import graph_name
from memsched.inductor.options import split_options
from memsched.inductor.questions.fake_step import FakeStep, build_step
from memsched.inductor.questions.shallow import shallow_step
from memsched.inductor.train_step.options import StepOptions
from memsched.inductor.train_step.program import Until
from memsched.inductor.train_step.step import Refusal, TrainStep
from memsched.levers.step_moments import StepMoment
from memsched.records.report import GraphKind, GraphReport
from memsched.records.step import TRAIN_STEP

__all__ = ["capture_step", "capture_train_step", "plan_target"]

Progress = Callable[[str], None]


def plan_target(
    target: str,
    *,
    ways: Sequence[str] = ("memsched",),
    options: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    device: str = "cpu",
    train: bool = True,
    optional: Sequence[str] = (),
    code: bool = True,
    depth: int = 0,
    progress: Progress = lambda _text: None,
) -> list[StepPlan]:
    """The plans of the step that `module:function` builds, without running it; on fake tensors of `device`.

    ways: of "stock", "memsched", "memsched with reuse", with Inductor's `allow_buffer_reuse`, and "train_step".
    options: of `BackendOptions`, and any of Inductor's own; arguments: keyword arguments of the function.
    optional: those of `ways` that are left out where the target returns no optimizer, and whose plan tells in one line
        why there is none, where they do not take the step.
    code: without it planning ends behind fusion: the reports are the same, and there are no wrappers and no bytes of
        them.
    depth: how often the model repeats its blocks instead of as often as it does (`questions.shallow`); 0: as it is.

    Raises:
        InputError: the step cannot be built or compiled, or an option is wrong; one line.
    """
    known = _ways(options or {})
    progress(f"{target}: building the model")
    step = build_step(target, arguments or {}, device, progress)
    step = shallow_step(step, depth) if depth else step
    progress(f"{target}: tracing")
    started = time.perf_counter()
    compiled = [way for way in ways if way != TRAIN_STEP]
    captured: list[list[PlannedGraph]] = []
    note = ""
    if compiled:
        captured, note = capture_step(step, [known[way] for way in compiled], train=train, code=code, progress=progress)
    seconds = time.perf_counter() - started
    plans = [
        StepPlan(way, device, tuple(graphs), step.held, str(torch.__version__), seconds, note=note)
        for way, graphs in zip(compiled, captured, strict=True)
    ]
    if TRAIN_STEP in ways and (step.optimizers or TRAIN_STEP not in optional):
        progress("planning the whole step (train_step)")
        plans.append(_plan_train_step(step, device, options or {}, code=code, must=TRAIN_STEP not in optional))
    return plans


def _plan_train_step(step: FakeStep, device: str, options: Mapping[str, Any], *, code: bool, must: bool) -> StepPlan:
    """The plan of the whole step; the reason where `train_step` does not take it, or an InputError if it must."""
    started, empty = time.perf_counter(), StepPlan(TRAIN_STEP, device, (), step.held, str(torch.__version__), 0.0)
    try:
        graph, moments = capture_train_step(step, options, code=code)
    except InputError as error:
        if must:
            raise
        return replace(empty, refusal=str(error))
    return replace(empty, graphs=(graph,), moments=moments, seconds=time.perf_counter() - started)


def _ways(options: Mapping[str, Any]) -> dict[str, Way]:
    try:
        own, inductor = split_options(options)
    except ValueError as error:
        raise InputError(str(error)) from None
    return {
        "stock": stock_way(inductor),
        "memsched": planned_way(own, inductor),
        "memsched with reuse": planned_way(own, {**inductor, "allow_buffer_reuse": True}),
    }


def capture_step(
    step: FakeStep,
    ways: Sequence[Way],
    *,
    train: bool = True,
    code: bool = True,
    progress: Progress = lambda _text: None,
) -> tuple[list[list[PlannedGraph]], str]:
    """For each way, every graph of the step's model and, with `train`, of its loss's backward; code: with wrappers.

    And what that takes for granted, or "": a message to a logger would break the graph, and is traced past.

    Raises:
        InputError: the model does not compile as one graph, or returns nothing that requires a gradient.
    """
    capture = _Capture(ways, progress, code=code)
    settings = functorch_config.patch(
        force_non_lazy_backward_lowering=True, graphsafe_rng_functionalization=False, enable_autograd_cache=False
    )
    model = traced_anew(step.model)
    try:
        with settings, step.mode, contextlib.nullcontext() if train else torch.no_grad():
            compiled = torch.compile(model, backend=capture.backend, fullgraph=True, dynamic=False)
            results, note = past_messages_of(lambda: call_model(compiled, step.batch))
    except Unsupported as error:
        raise InputError(f"the model breaks the graph: {break_of(error)}") from error
    except Exception as error:
        raise InputError(f"the model does not compile: {type(error).__name__}: {_first_line(error)}") from error
    leaves = torch.utils._pytree.tree_leaves(results)
    if train and not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
        raise InputError("the model returns no loss: nothing that it returns requires a gradient")
    if not any(capture.graphs):
        raise InputError("nothing to plan: no graph with an op was compiled")
    return capture.graphs, note


def capture_train_step(
    step: FakeStep, options: Mapping[str, Any], *, code: bool = True
) -> tuple[PlannedGraph, tuple[StepMoment, ...]]:
    """The one graph of `memsched.train_step` for the step, and its moments; code: with its wrapper.

    Raises:
        InputError: the step has no optimizer, or is not one that `train_step` makes.
    """
    if not step.optimizers or not isinstance(step.model, nn.Module):
        raise InputError("train_step: the function returns no optimizer: let it return (model, batch, optimizer)")
    backend, inductor = split_options(options)
    own = StepOptions(backend=replace(backend, strict=True), inductor=inductor)
    settings = functorch_config.patch(graphsafe_rng_functionalization=False)
    try:
        with settings, step.mode, capture_wrappers() as wrappers:
            planned = TrainStep(step.model, step.optimizers, None, own)
            report = planned.plan_batch(step.batch, Until.CODE if code else Until.FUSION)
    except Refusal as error:
        raise InputError(str(error).removeprefix("memsched.")) from error
    except Exception as error:
        raise InputError(f"train_step: {reason_of(error.__cause__ or error)}") from error
    if not code:
        return PlannedGraph(report.plan, report.notes.prefusion), report.moments
    return _replayed(report.plan, report.notes.prefusion, wrappers[-1]), report.moments


class _Capture:
    """The backend that plans, and what it has planned: one list of graphs for each way."""

    def __init__(self, ways: Sequence[Way], progress: Progress, *, code: bool) -> None:
        self.ways, self.code = ways, code
        self.progress = progress
        self.graphs: list[list[PlannedGraph]] = [[] for _ in ways]

    def backend(self, gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        """`compile_fx` for each way, with the compiler of one graph replaced by one that plans it.

        Nothing is shared: what a way saves for the backward, and how that lies, decides its backward graph.
        """
        compiled: Any = None
        for way, graphs in zip(self.ways, self.graphs, strict=True):
            # compile_fx changes the graph that it is given.
            own = torch.fx.GraphModule(gm, copy.deepcopy(gm.graph))
            plan = functools.partial(self._plan, way, graphs)
            compiled = compile_fx(own, example_inputs, inner_compile=plan, config_patches=dict(way.cut))
        return compiled

    def _plan(
        self,
        way: Way,
        graphs: list[PlannedGraph],
        gm: torch.fx.GraphModule,
        example_inputs: Sequence[Any],
        **how: Any,
    ) -> Callable[..., Any]:
        """Plan one graph; returns the traced graph, to run in its place."""
        kind = GraphKind.BACKWARD if how.get("is_backward") else GraphKind.FORWARD
        self.progress(f"planning the {kind} graph ({len(gm.graph.nodes)} traced nodes, {way.name})")
        # Inductor changes the graph that it is given.  Tensors are shared.
        own = torch.fx.GraphModule(gm, copy.deepcopy(gm.graph))
        graphs.extend(_plan_graph(way, own, example_inputs, how, code=self.code))
        boxed: Callable[..., Any] = make_boxed_func(gm.forward)
        return boxed


def _plan_graph(
    way: Way, gm: torch.fx.GraphModule, example_inputs: Sequence[Any], how: Mapping[str, Any], *, code: bool
) -> list[PlannedGraph]:
    """One graph, in a list; an empty list when it has no nodes to schedule."""
    before = _Before(way.patches.get("_pre_fusion_custom_pass"))
    watched = replace(way, patches={**way.patches, "_pre_fusion_custom_pass": before})
    with capture_wrappers() as wrappers:
        reports = lower(watched, gm, example_inputs, how, stop_after_fusion=not code)
    planned = [report for report in reports if report.kind is not GraphKind.SUBGRAPH]
    if not code:
        return [PlannedGraph(report, before.graph) for report in planned]
    return [_replayed(report, before.graph, wrappers[-1]) for report in planned]


def _replayed(report: GraphReport, prefusion: Graph | None, wrapper: Wrapper) -> PlannedGraph:
    replay = wrapper.replay()
    return PlannedGraph(
        report=report,
        prefusion=prefusion,
        wrapper=wrapper.source,
        replayed=replay.peak,
        curve=replay.curve,
        lines=replay.lines,
        entry=replay.entry,
        retained=replay.retained,
        freed=replay.freed,
        results=replay.results,
    )


class _Before(SchedulerPass):  # type: ignore[misc]
    """Keeps the graph before fusion, then runs the pass that was there."""

    def __init__(self, inner: SchedulerPass | None) -> None:
        self.inner = inner
        self.graph: Graph | None = None

    def __call__(self, nodes: list[Any]) -> list[Any]:
        if nodes:
            name = graph_name()
            self.graph = extract_graph(nodes, name, "prefusion")
        return nodes if self.inner is None else self.inner(nodes)

    def uuid(self) -> str:
        return "memsched: capture"


def _first_line(error: BaseException) -> str:
    """What went wrong, in a line: behind Dynamo's account of it, the error that the model's own operator raised."""
    error = getattr(error, "inner_exception", None) or error
    text = str(error).strip() or "no message"
    cause = re.search(r": got (\w+\(.*)", text)
    return (cause[1] if cause else text.splitlines()[0])[:300]

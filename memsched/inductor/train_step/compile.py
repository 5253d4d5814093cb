"""Compiling the graph of a step with Inductor, planned by memsched.

`compile_fx` would trace the graph again to find its writes; they are known, so Inductor's inner compiler is called with
the graph as it is: an inference graph whose inputs are all the caller's and some of which are written in place.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch._functorch.config as functorch_config
from torch import Tensor, fx
from torch._dynamo import compiled_autograd
from torch._guards import TracingContext, tracing
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode

from memsched.core.peak import memory_profile
from memsched.inductor.backend import planning_patches
from memsched.inductor.choices import PlannedChoices
from memsched.inductor.compat import inner_compile_arguments, lays_channels_last
from memsched.inductor.lowered_twice import is_below, lowered_twice, only_if
from memsched.inductor.options import BackendOptions
from memsched.inductor.publish import Sink, publish
from memsched.inductor.stopping import StopAfter, stopped
from memsched.inductor.train_step.failure import raise_interrupted
from memsched.inductor.train_step.graph import StepGraph
from memsched.inductor.train_step.report import NotingPostFusionPass, NotingPreFusionPass, StepNotes
from memsched.records.published import signing
from memsched.records.report import GraphKind, GraphReport

__all__ = ["CompiledStep", "Plan", "compile_step", "plan_step"]

_MUCH_SCRATCH = 0.2
"""Share of the peak from which on scratch memory is worth a second plan, with images laid out in another way."""


@dataclass
class Plan:
    """What was planned for the graph of a step, and what the passes saw; no report without a plan."""

    notes: StepNotes
    report: GraphReport | None = None


@dataclass
class CompiledStep:
    """Compiled code of a step.

    written: for each update, by what the user calls it, the inputs that it writes.
    """

    code: Any
    plan: Plan
    written: Mapping[str, Sequence[str]]

    def __call__(self, inputs: Sequence[Any]) -> list[Tensor]:
        """Run it; the outputs of the graph.

        Raises:
            StepInterrupted: an error after the first update was done.
        """
        try:
            with torch.no_grad():
                return list(self.code(list(inputs)))
        except BaseException as error:
            raise_interrupted(error, self.written)
            raise


def compile_step(
    step: StepGraph,
    fake_mode: FakeTensorMode,
    options: BackendOptions,
    inductor: Mapping[str, Any],
    names: Sequence[str],
) -> CompiledStep:
    """Compile `step`; with `options.enabled` False as stock Inductor would.

    inductor: further patches of Inductor's configuration.
    names: what the user calls the inputs of the model.
    """
    plan = Plan(notes=StepNotes(step.update_nodes))

    def sink(report: GraphReport) -> None:
        publish(report)
        if report.kind is GraphKind.STEP:
            plan.report = report

    with _compiling(fake_mode, options, _planning(options, plan.notes, inductor, sink)), signing():
        code = _inner_compile(step, options, inductor)
    written = {names[at]: placeholders for at, placeholders in step.written.items()}
    return CompiledStep(code, plan, written)


def plan_step(
    step: StepGraph,
    fake_mode: FakeTensorMode,
    options: BackendOptions,
    inductor: Mapping[str, Any],
    *,
    stop_after_fusion: bool = True,
) -> Plan:
    """Plan `step` without compiling code.

    stop_after_fusion: and without generating it; else `capture.wrapper_source.capture_wrappers` ends this.
    """
    plan, found = Plan(notes=StepNotes(step.update_nodes)), list[GraphReport]()
    patches = _planning(options, plan.notes, inductor, found.append) | {"fx_graph_cache": False}
    if stop_after_fusion:
        patches["_post_fusion_custom_pass"] = StopAfter(patches["_post_fusion_custom_pass"])
    with _compiling(fake_mode, options, patches), stopped():
        _inner_compile(step, options, inductor)
    plan.report = next((report for report in reversed(found) if report.kind is GraphKind.STEP), None)
    return plan


def _inner_compile(step: StepGraph, options: BackendOptions, inductor: Mapping[str, Any]) -> Any:
    """The compiled step, its images laid out in the way that needs less.

    Inductor lays out a graph that has convolutions with the channels last, which stock's backward, a graph of its own,
    has not: there is no convolution in it but the gradients of some.  Depthwise ones may need ten times the scratch
    memory with the channels last; others need copies with the channels first.

    inductor: what the user says of the layout holds.
    """
    how = inner_compile_arguments() | {"static_input_idxs": (), "is_inference": True}
    compile_graph = lowered_twice(compile_fx_inner, options)
    graph = step.module.graph
    is_open = options.enabled and "layout_optimization" not in inductor
    if not is_open or not _has_gradients_of_convolutions(step.module):
        return compile_graph(step.module, step.inputs, **how)

    def compile_copy() -> Any:
        step.module.graph = copy.deepcopy(graph)  # Inductor changes the graph that it is given
        return compile_graph(step.module, step.inputs, **how)

    highest: list[int] = []

    def peaks_elsewhere(report: GraphReport) -> bool:
        highest.append(report.generated_peak)
        return not _may_need_less(report)

    with only_if(peaks_elsewhere):
        return compile_copy()
    with only_if(is_below(highest[-1])), config.patch(layout_optimization=False):
        return compile_copy()
    return compile_copy()


def _may_need_less(report: GraphReport) -> bool:
    """Whether another layout of images may need less: where a library takes much scratch while the plan peaks.

    On a GPU that is not known, so it may; of a plan that failed nothing is known, and it stays.
    """
    if report.graph is None or report.schedule is None:
        return False
    if not report.graph.device.startswith("cpu"):
        return True
    order = report.schedule.order
    scratch = report.graph.ops[order[memory_profile(report.graph, order).peak_step]].workspace
    return scratch > _MUCH_SCRATCH * report.generated_peak


def _has_gradients_of_convolutions(module: fx.GraphModule) -> bool:
    """Whether Inductor would lay them out as it does the convolutions."""
    gradients = module.graph.find_nodes(op="call_function", target=torch.ops.aten.convolution_backward.default)
    if not gradients or config.force_layout_optimization:
        return False
    return lays_channels_last(module.graph, is_inference=True)


def _planning(options: BackendOptions, notes: StepNotes, inductor: Mapping[str, Any], sink: Sink) -> dict[str, Any]:
    """The patches of the user, and ours; a pass of theirs over the traced graph stays."""
    # For inference Inductor first moves every node to its readers, which it does not do in training.
    patches: dict[str, Any] = {"reorder_for_locality": False, **inductor}
    if options.enabled:
        patches |= planning_patches(options, inductor, sink)
        patches["_pre_fusion_custom_pass"] = NotingPreFusionPass(options, notes, sink)
        patches["_post_fusion_custom_pass"] = NotingPostFusionPass(options, notes)
    return patches


@contextlib.contextmanager
def _compiling(fake_mode: FakeTensorMode, options: BackendOptions, patches: dict[str, Any]) -> Iterator[None]:
    """What surrounds the inner compiler inside `compile_fx`."""
    choices = V.set_choices_handler(PlannedChoices(options)) if options.enabled else contextlib.nullcontext()
    with (
        config.patch(patches),
        choices,
        V.set_fake_mode(fake_mode),
        # `run_and_save_rng_state` gives a real state even under fake tensors, and here its reader is in the same graph.
        mock.patch.object(fake_mode, "allow_non_fake_inputs", True),
        tracing(TracingContext(fake_mode)),
        compiled_autograd._disable(),
        functorch_config.patch(unlift_effect_tokens=True),
        torch._C._DisableAutocast(),
    ):
        yield

"""One run of a step: which graph it needs, compiled or not yet, and with which inputs.

    owner.request ──┐
    param.grad  ────┼─> Recipe ──> compiled code, or compile it ──> loss, norm, new gradients
    optimizer   ────┘     │
                          └ the key: purpose, clipping, who has a gradient already, the form of every update

Dynamo calls a `Program` in place of the forward that it traced, with that graph's inputs; parameters are among them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from memsched.inductor.failures import reason_of
from memsched.inductor.rewrites.idle import warn_of_idle_chunks
from memsched.inductor.train_step.capture import Captured
from memsched.inductor.train_step.clipping import Clip
from memsched.inductor.train_step.compile import CompiledStep, Plan, compile_step, plan_step
from memsched.inductor.train_step.graph import Purpose, Recipe, build_step
from memsched.inductor.train_step.options import StepOptions
from memsched.inductor.train_step.refusals import Refusal
from memsched.inductor.train_step.replicas import Replicas
from memsched.inductor.train_step.report import StepReport, make_report
from memsched.inductor.train_step.scaling import Scale
from memsched.inductor.train_step.state import OptimizerState
from memsched.records.published import count

__all__ = ["NotCompiled", "Program", "Request", "Until"]

log = logging.getLogger("memsched")


class NotCompiled(Exception):
    """The step could not be compiled; the cause is chained."""


class Owner(Protocol):
    """What a program needs of the train step that it belongs to."""

    model: nn.Module
    replicas: Replicas | None
    optimizers: tuple[Optimizer, ...]
    request: Request
    reports: list[StepReport]
    grad_norm: Tensor | None
    finite: bool


class Until(Enum):
    """How far a run goes.

    THE_END: the step is done; FUSION: it is planned; CODE: and its wrapper generated, for a caller that catches it.
    """

    THE_END = auto()
    FUSION = auto()
    CODE = auto()


@dataclass(frozen=True, slots=True)
class Request:
    """What the next run of a program is for.

    purpose, clip, scaling: as in `Recipe`.
    number: what clipping takes, the largest norm, the coefficient or the largest element; scale: of the loss.
    """

    purpose: Purpose
    clip: Clip = Clip.NONE
    number: float = 0.0
    scaling: Scale = Scale.NONE
    scale: Tensor | None = None
    until: Until = Until.THE_END


class Program:
    """What Dynamo calls in place of the forward it traced: the step, compiled once for every recipe."""

    def __init__(self, owner: Owner, captured: Captured, example_inputs: Sequence[Any], options: StepOptions) -> None:
        self.owner, self.captured, self.options = owner, captured, options
        all_params = [p for one in owner.optimizers for group in one.param_groups for p in group["params"]]
        owned = {id(parameter) for parameter in all_params}
        _, gradients = captured.outputs
        self.indices = [
            at
            for at, (value, gradient) in enumerate(zip(example_inputs, gradients, strict=True))
            if gradient is not None and id(value) in owned
        ]
        self.params: list[nn.Parameter] = [example_inputs[at] for at in self.indices]
        used = {id(parameter) for parameter in self.params}
        self.unused = [parameter for parameter in all_params if id(parameter) not in used]
        self.state = OptimizerState(owner.optimizers, self.params, options.state_dtype)
        self.names = _names_of_inputs(owner.model, example_inputs)
        self.compiled: dict[Recipe, CompiledStep] = {}

    def __call__(self, *inputs: Any) -> tuple[Tensor]:
        """Run the step that the owner asked for."""
        request, owner = self.owner.request, self.owner
        self._check(inputs)
        so_far = [param.grad for param in self.params]
        updates = request.purpose is Purpose.UPDATE
        forms = self.state.prepare() if updates else ()
        had = tuple(grad is not None for grad in so_far)
        recipe = Recipe(request.purpose, request.clip, request.scaling, had, forms)
        extra = [grad for grad in so_far if grad is not None]
        if request.scale is not None:
            extra.append(request.scale)
        if updates:
            extra += [*self.state.tensors(forms), *self.state.scalars()]
        if request.clip is not Clip.NONE:
            extra.append(torch.tensor(request.number, dtype=torch.float32))
        if request.until is not Until.THE_END:
            self._plan(recipe, extra, request.until)
            return (torch.zeros(()),)
        if recipe not in self.compiled:
            self.compiled[recipe] = self._compile(recipe, extra)
        loss, *results = self.compiled[recipe]([*inputs, *extra])
        if request.purpose is Purpose.ACCUMULATE:
            new = iter(results)
            for param in self.params:
                param.grad = next(new) if param.grad is None else param.grad
            return (loss,)
        found = iter(results)
        if request.purpose is Purpose.LOOK or request.clip is Clip.HELD:
            owner.grad_norm = next(found)
        owner.finite = bool(next(found, True))
        if updates and owner.finite:
            self.state.advance()
            torch.autograd.graph.increment_version(self.params)
        return (loss,)

    def _compile(self, recipe: Recipe, extra: Sequence[Tensor]) -> CompiledStep:
        options = self.options
        try:
            graph = build_step(self.captured, self.indices, recipe, extra, self.owner.replicas)
            fake_mode = self.captured.fake_mode
            compiled = compile_step(graph, fake_mode, options.backend, dict(options.inductor or {}), self.names)
        except Exception as error:
            raise NotCompiled from error
        if recipe.purpose is Purpose.UPDATE and compiled.plan.report is not None:
            warn_of_idle_chunks(options.backend.setting, [compiled.plan.report])
        self._report(compiled.plan, recipe, graph.buckets)
        return compiled

    def _plan(self, recipe: Recipe, extra: Sequence[Tensor], until: Until) -> None:
        options, stops = self.options, until is Until.FUSION
        graph = build_step(self.captured, self.indices, recipe, extra, self.owner.replicas)
        inductor = dict(options.inductor or {})
        plan = plan_step(graph, self.captured.fake_mode, options.backend, inductor, stop_after_fusion=stops)
        self._report(plan, recipe, graph.buckets)

    def _report(self, plan: Plan, recipe: Recipe, buckets: tuple[int, ...]) -> None:
        if plan.report is None or plan.report.graph is None or recipe.purpose is not Purpose.UPDATE:
            return
        sizes = {
            "parameter_bytes": sum(parameter.nbytes for parameter in self.owner.model.parameters()),
            "state_bytes": sum(tensor.nbytes for tensor in self.state.tensors(recipe.forms)),
            "gradient_bytes": sum(parameter.nbytes for parameter in self.params),
            "buckets": buckets,
        }
        try:
            self.owner.reports.append(make_report(plan.report, plan.notes, sizes, self.options.backend))
        except Exception as error:  # what is told about a step must not cost the step
            if self.options.backend.strict:
                raise
            count("report of a step")
            log.warning("memsched: no report of the step (%s)", reason_of(error))

    def _check(self, inputs: Sequence[Any]) -> None:
        for at, param in zip(self.indices, self.params, strict=True):
            if inputs[at] is not param:
                raise Refusal("a parameter of the model was replaced by another one; make a new train_step")
            if param.grad is not None and param.grad.layout != torch.strided:
                raise Refusal(f"parameter {self.names[at]} has a sparse gradient")
        if any(param.grad is not None for param in self.unused):
            raise Refusal("a parameter that this forward does not use has a gradient from elsewhere; set it to None")


def _names_of_inputs(model: nn.Module, inputs: Sequence[Any]) -> list[str]:
    """What the user calls the inputs of a program."""
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    return [names.get(id(value), f"input {at}") for at, value in enumerate(inputs)]

"""The ladder of one step of a model, planned setting by setting, on the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memsched.inductor.calls import Batch, Optimizers, WithLoss, optimizers_of
from memsched.inductor.capture.one_graph import check_one_graph, planned_as_one
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.fit.choose import climb_for
from memsched.inductor.fit.rungs import planned_rung, planned_step_rung, with_update
from memsched.inductor.options import BackendOptions
from memsched.inductor.train_step.options import StepOptions
from memsched.inductor.train_step.step import TrainStep
from memsched.levers.ladder import Ladder, Rung
from memsched.levers.setting import Setting
from memsched.records.report import GraphReport
from memsched.records.step import OptimizerStep

__all__ = ["ladder_of"]


def ladder_of(
    model: Any,
    batch: Batch,
    optimizers: Optimizers,
    loss_fn: Callable[[Any, Any], torch.Tensor] | None,
    options: BackendOptions,
    on_rung: Callable[[Rung], None],
    *,
    limit: int | None = None,
    update: OptimizerStep | None = None,
) -> tuple[Ladder, str]:
    """Climb for `options`: with optimizers the step of `train_step`, without one the compiled model's.

    Returns the ladder, and what its plans take for granted, in one line.

    limit: bytes above what the caller holds, in the place of the budget of `options`.
    update: what an optimizer's own step needs, behind the compiled model.

    Raises:
        ValueError: the first setting cannot be planned, a model that breaks into several graphs; one line.
    """
    given = optimizers_of(optimizers)
    model = model if loss_fn is None or given else WithLoss(model, loss_fn)

    def plan(setting: Setting) -> Rung:
        at = options.at(setting)
        if given:
            step = TrainStep(model, given, loss_fn, StepOptions(backend=at))
            return planned_step_rung(setting, lambda: step.plan_batch(batch))
        return with_update(planned_rung(setting, lambda: _plan_model(model, batch, at)), update)

    allowed = None if limit is None else lambda _rung: limit

    def climbed() -> Ladder:
        return climb_for(options, plan, on_rung, limit=allowed, interruptible=True)

    # `train_step` drops messages by itself, and says what else breaks its graph.
    return (climbed(), "") if given else planned_as_one(climbed, model, batch)


def _plan_model(model: Any, batch: Batch, options: BackendOptions) -> list[GraphReport]:
    """The plans of the forward and the backward; gradients and the random state are put back."""
    parameters = list(model.parameters()) if isinstance(model, torch.nn.Module) else []
    gradients = [parameter.grad for parameter in parameters]
    try:
        with torch.random.fork_rng(devices=[]):
            reports = plan_only(model, batch, options)
            check_one_graph(reports)
            return reports
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

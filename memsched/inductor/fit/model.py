"""`memsched.fit`: how far down one step can go, and what each rung costs, before anything runs.

    found = memsched.fit(model, batch, targets, optimizer=optimizer, budget="0.5x")
    print(found)                                          the ladder as a table
    torch.compile(model, backend="memsched", options=found.options)

With an optimizer the step is that of `memsched.train_step`: forward, backward and updates in one plan.  Without one it
is that of a compiled model, whose gradients are all alive at the end of the backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.fit.choose import climb_for
from memsched.inductor.fit.rungs import planned_rung
from memsched.inductor.options import BackendOptions
from memsched.inductor.train_step.step import plan_train_step
from memsched.levers.ladder import Ladder, Rung
from memsched.levers.setting import Setting

__all__ = ["Fit", "fit"]


@dataclass(frozen=True, slots=True)
class Fit:
    """The ladder of one step; train_step: whether the optimizer's update is part of it."""

    ladder: Ladder
    train_step: bool

    @property
    def options(self) -> dict[str, int | float]:
        """The options of `torch.compile(backend="memsched")` and of `train_step` that give the chosen rung."""
        return self.ladder.chosen.setting.to_options()

    @property
    def fits(self) -> bool:
        """Whether the budget is met; True without one."""
        return self.ladder.fits

    def to_json(self) -> dict[str, Any]:
        """A `memsched-fit/1` object."""
        from memsched.render.text.fit import fit_to_json

        return fit_to_json(self.ladder, self.train_step)

    def __str__(self) -> str:
        from memsched.render.text.fit import fit_text

        return fit_text(self.ladder, self.train_step)


def fit(
    model: Any,
    *args: Any,
    optimizer: torch.optim.Optimizer | None = None,
    loss_fn: Callable[[Any, Any], torch.Tensor] | None = None,
    budget: str | int = "",
    levers: str | Sequence[str] = "auto",
    options: dict[str, Any] | None = None,
    on_rung: Callable[[Rung], None] = lambda _rung: None,
) -> Fit:
    """The ladder of a training step on `model(*args)`; bytes above what the caller holds, by the memory model.

    optimizer, loss_fn: as in `memsched.train_step`; without an optimizer the model alone, which returns its loss.
    budget: bytes ("24GiB") or a share ("0.5x") of what stock's orders need; without one, as far down as it goes.
    levers: "auto", or names of `memsched.levers.setting.Lever`.
    options: further options of the backend; on_rung: told each rung as it is found.
    The model is planned, not compiled; it is left as it was.

    Raises:
        ValueError: a budget or lever that is none, a model that cannot be planned; one line.
    """
    own = BackendOptions(**{"strict": True, **(options or {}), "peak_budget": budget, "levers": levers})

    def plan(setting: Setting) -> Rung:
        at = own.at(setting)
        if optimizer is not None:
            return planned_rung(setting, lambda: [plan_train_step(model, optimizer, args, loss_fn, at)])
        return planned_rung(setting, lambda: _plan_model(model, args, at))

    return Fit(climb_for(own, plan, on_rung), optimizer is not None)


def _plan_model(model: Any, args: Sequence[Any], options: BackendOptions) -> Any:
    """The plans of the forward and the backward; gradients and the random state are put back."""
    parameters = list(model.parameters()) if isinstance(model, torch.nn.Module) else []
    gradients = [parameter.grad for parameter in parameters]
    try:
        with torch.random.fork_rng(devices=[]):
            return plan_only(model, list(args), options)
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

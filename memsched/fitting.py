"""How far down one step can go, and what each rung costs, before anything runs: `memsched.fit` and `memsched fit`.

    found = memsched.fit(model, batch, targets, optimizer=optimizer, budget="0.5x")
    print(found)                                          the ladder as a table
    torch.compile(model, backend="memsched", options=found.options)

With an optimizer the step is that of `memsched.train_step`: forward, backward and updates in one plan.  Without one it
is that of a compiled model, whose gradients are all alive at the end of the backward.  torch is imported by the
functions that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memsched.core.sizes import InputError
from memsched.levers.ladder import Ladder, Rung
from memsched.levers.setting import Setting
from memsched.planning import DEVICES
from memsched.render.text.fit import fit_text, fit_to_json

__all__ = ["Fit", "fit", "fit_target"]

OnRung = Callable[[Rung], None]


def _ignore(_rung: Rung) -> None:
    """Nobody wants to be told."""


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
        return fit_to_json(self.ladder, self.train_step)

    def __str__(self) -> str:
        return fit_text(self.ladder, self.train_step)


def fit(
    model: Any,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    optimizer: Any = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    budget: str | int = "",
    levers: str | Sequence[str] = "auto",
    options: Mapping[str, Any] | None = None,
    on_rung: OnRung = _ignore,
) -> Fit:
    """The ladder of a training step on `model(*args, **kwargs)`; bytes above what the caller holds.

    optimizer, loss_fn: as in `memsched.train_step`; without an optimizer the model alone, which returns its loss.
    budget: bytes ("24GiB") or a share ("0.5x") of what stock's orders need; without one, as far down as it goes.
    levers: "auto", or names of `memsched.levers.setting.Lever`.
    options: further options of the backend; on_rung: told each rung as it is found.
    The model is planned, not compiled; it is left as it was.

    Raises:
        ValueError: a budget or lever that is none, a model that cannot be planned; one line.
    """
    from memsched.inductor.calls import WithLoss, batch_of
    from memsched.inductor.fit.model import ladder_of
    from memsched.inductor.options import BackendOptions

    own = BackendOptions(**{"strict": True, **(options or {}), "peak_budget": budget, "levers": levers})
    batch = batch_of(model if loss_fn is None else WithLoss(model, loss_fn), args, kwargs)
    return Fit(ladder_of(model, batch, optimizer, loss_fn, own, on_rung), optimizer is not None)


def fit_target(
    target: str,
    device: str,
    budget: str,
    levers: Sequence[str],
    *,
    arguments: Mapping[str, Any] | None = None,
    on_rung: OnRung = _ignore,
) -> Fit:
    """The ladder of the step that `module:function` builds.

    device: "cpu" plans the model as it is; "cuda" plans on fake tensors, at any size, the compiled model alone.

    Raises:
        ValueError: a target, budget or lever that is none, a step that cannot be planned; one line.
    """
    from memsched.inductor.questions.target import build_target, find_function

    if device not in DEVICES:
        raise InputError(f"device {device!r} is unknown: there are {' and '.join(DEVICES)}")
    if device == "cuda":
        return Fit(_ladder_on_cuda(target, budget, levers, arguments or {}, on_rung), train_step=False)
    function = find_function(target)
    step = build_target(lambda: function(**(arguments or {})), target)
    args, kwargs = ((), step.batch) if isinstance(step.batch, Mapping) else (step.batch, None)
    how: dict[str, Any] = {"optimizer": step.optimizer, "budget": budget, "levers": levers, "on_rung": on_rung}
    return fit(step.model, *args, kwargs=kwargs, **how)


def _ladder_on_cuda(
    target: str, budget: str, levers: Sequence[str], arguments: Mapping[str, Any], on_rung: OnRung
) -> Ladder:
    from memsched.inductor.cuda_without_gpu import CudaUnavailable, CudaWorker, WorkerError
    from memsched.inductor.fit.choose import climb_for
    from memsched.inductor.fit.rungs import rung_of
    from memsched.inductor.options import BackendOptions

    options = BackendOptions(peak_budget=budget, levers=tuple(levers))
    try:
        with CudaWorker() as worker:

            def plan(setting: Setting) -> Rung:
                given = setting.to_options()
                (planned,) = worker.plans(target, ways=("memsched",), options=given, arguments=arguments)
                return rung_of(setting, planned.reports)

            return climb_for(options, plan, on_rung)
    except (CudaUnavailable, WorkerError) as error:
        raise InputError(f"device 'cuda': {error}") from None

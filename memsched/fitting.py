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
from typing import TYPE_CHECKING, Any

from memsched.core.sizes import InputError
from memsched.levers.ladder import Ladder, Rung
from memsched.levers.setting import Setting
from memsched.planning import CUBLAS_WORKSPACE, TargetPlanner
from memsched.records.step import TRAIN_STEP
from memsched.render.text.fit import fit_text, fit_to_json

if TYPE_CHECKING:
    from memsched.inductor.options import BackendOptions

__all__ = ["Fit", "FitPlanner", "fit"]

OnRung = Callable[[Rung], None]


def _ignore(_rung: Rung) -> None:
    """Nobody wants to be told."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The ladder of one step.

    train_step: whether the optimizer's update is part of it.
    held: bytes of the caller during the step: parameters, state of the optimizer, batch; on CUDA also the workspace of
        cuBLAS.  Peaks of the ladder are above them; None: not asked for.
    note: what the plans take for granted, in one line.
    """

    ladder: Ladder
    train_step: bool
    held: int | None = None
    note: str = ""

    @property
    def options(self) -> dict[str, int | float]:
        """The options of `torch.compile(backend="memsched")` and of `train_step` that give the chosen rung."""
        return self.ladder.chosen.setting.to_options()

    @property
    def fits(self) -> bool:
        """Whether the budget is met; True without one."""
        return self.ladder.fits

    @property
    def needed(self) -> int:
        """Bytes of the device that the chosen rung needs, with what the caller holds."""
        return (self.held or 0) + self.ladder.chosen.peak

    def to_json(self) -> dict[str, Any]:
        """A `memsched-fit/1` object."""
        return fit_to_json(self.ladder, self.train_step, self.held)

    def __str__(self) -> str:
        return fit_text(self.ladder, self.train_step, self.held)


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
    The model is planned, not compiled; it is left as it was.  Ctrl-C behind the first rung ends the climb: the ladder
    that was found is returned, and says so.

    Raises:
        ValueError: a budget or lever that is none, a model that cannot be planned; one line.
    """
    from memsched.inductor.calls import WithLoss, batch_of
    from memsched.inductor.fit.model import ladder_of
    from memsched.inductor.options import BackendOptions

    own = BackendOptions(**{"strict": True, **(options or {}), "peak_budget": budget, "levers": levers})
    batch = batch_of(model if loss_fn is None else WithLoss(model, loss_fn), args, kwargs)
    ladder, note = ladder_of(model, batch, optimizer, loss_fn, own, on_rung)
    return Fit(ladder, optimizer is not None, note=note)


class FitPlanner(TargetPlanner):
    """Ladders of the step that `module:function` builds, again and again, with other arguments.

    device: "cpu" plans the model as it is; "cuda" plans on fake tensors, at any size.
    budget, levers: as in `fit`.
    room: bytes of the device for the whole step, in the place of the budget.
    train_step: whether the step is that of `memsched.train_step`, or that of the compiled model with the optimizer's
        own behind it; None: it is where the target returns an optimizer.
    every_layer: for CUDA, plan every rung with all layers of the model.  Else rungs of deep models are estimated from
        few layers, and the one at which the ladder stops is planned with all (`inductor.fit.cuda`).

    Raises:
        InputError: an unknown device, or one for which nothing can be planned here.
    """

    def __init__(
        self,
        target: str,
        device: str,
        budget: str,
        levers: Sequence[str],
        *,
        room: int | None = None,
        train_step: bool | None = None,
        every_layer: bool = False,
    ) -> None:
        super().__init__(target, device)
        self.room, self.train_step, self.every_layer = room, train_step, every_layer
        self._budget, self._levers = budget, tuple(levers)

    def fit(
        self, arguments: Mapping[str, Any] | None = None, on_rung: OnRung = _ignore, *, confirm: bool = True
    ) -> Fit:
        """The ladder of the step that the target builds when it is given `arguments`.

        confirm: plan the last rung, where it was estimated.

        Raises:
            ValueError: a target, budget or lever that is none, a step that cannot be planned; one line.
        """
        from memsched.inductor.options import BackendOptions

        options = BackendOptions(strict=True, peak_budget=self._budget, levers=self._levers)
        if self.device == "cuda":
            return self._on_cuda(options, dict(arguments or {}), on_rung, confirm=confirm)
        return self._on_cpu(options, dict(arguments or {}), on_rung)

    def _on_cpu(self, options: BackendOptions, arguments: dict[str, Any], on_rung: OnRung) -> Fit:
        from memsched.inductor.fit.model import ladder_of
        from memsched.inductor.held import held_bytes
        from memsched.inductor.questions.target import build_target, find_function

        function = find_function(self.target)
        step = build_target(lambda: function(**arguments), self.target)
        train_step = self._is_train_step(bool(step.optimizers))
        held = held_bytes(step.model, step.batch, step.optimizers)
        ladder, note = ladder_of(
            step.model,
            step.batch,
            step.optimizers if train_step else None,
            None,
            options,
            on_rung,
            limit=None if self.room is None else self.room - held.total,
            update=held.update,
        )
        return Fit(ladder, train_step, held.total, note)

    def _is_train_step(self, has_optimizer: bool) -> bool:
        if self.train_step and not has_optimizer:
            raise InputError(f"{self.target}: returns no optimizer for train_step, not (model, batch, optimizer)")
        return has_optimizer if self.train_step is None else self.train_step

    def _on_cuda(self, options: BackendOptions, arguments: dict[str, Any], on_rung: OnRung, *, confirm: bool) -> Fit:
        from memsched.inductor.fit.choose import climb_for
        from memsched.inductor.fit.cuda import CudaRungs, is_deep

        with self.worker() as worker:
            facts = worker.call("memsched.inductor.cuda_without_gpu.requests:cuda_step_facts", self.target, arguments)
        train_step = self._is_train_step(facts.has_optimizer)
        held = facts.held.total + CUBLAS_WORKSPACE
        limit = None if self.room is None else lambda _rung: self.room - held
        with self.workers(2 if is_deep(facts) and not self.every_layer else 1) as workers:
            rungs = CudaRungs(workers, self.target, arguments, facts, TRAIN_STEP if train_step else "memsched")
            # A share of stock's peak is one of the whole step's.
            of_stock = limit is None and options.is_share

            def plan(setting: Setting) -> Rung:
                first = setting == options.setting
                return rungs.planned(setting) if first and of_stock else rungs.estimated(setting)

            ladder = climb_for(
                options, plan, on_rung, limit=limit, confirm=rungs.planned if confirm else None, interruptible=True
            )
            return Fit(ladder, train_step, held, rungs.note)

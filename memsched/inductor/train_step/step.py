"""The whole training step as one plan: forward, backward and the optimizer's update in one graph.

    step = memsched.train_step(model, optimizer)
    for batch in loader:
        loss = step(*batch)               # loss.backward(); optimizer.step(); optimizer.zero_grad(set_to_none=True)

The problem.  A compiled backward returns all gradients at its end, so every one of them is alive there, whatever the
optimizer does afterwards.  In one graph with the updates, a gradient has one reader and may die as it is born:

    live bytes     backward │ optimizer             backward with updates
                          ▟▙                               ▂▂▂▂
                       ▗▟███▙                           ▗▟██████▙
                    ▗▟███████▙▖                      ▗▟██████████▙▖
                 activations, gradients          activations, one gradient at a time

The parts, each a module:

    Dynamo ─> gm ──> train_step_capture    forward and backward joined, as stock Inductor would have split them
                  ─> train_step_program  one run: which graph, with which inputs
                  ─> train_step_graph      + updates (train_step_rules), sums, norms (train_step_clipping)
                  ─> train_step_compile    Inductor with memsched's passes; train_step_failure tells what was updated
    optimizer ──> train_step_state         `optimizer.state` and `param_groups` as inputs of the graph
    before all ─> train_step_refusals      what does not fit, in one line
    after all ──> train_step_report        the memory of the step as a whole

The claim: the same losses, parameters and state as the three calls above up to the rounding of a compiled model, with
no gradient alive longer than its own update needs.  Measured in bench/run/train_step.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
from torch.optim import Optimizer

from memsched.inductor.backend import partition_patches
from memsched.inductor.compat import unsupported_reason
from memsched.inductor.failures import leave_to_stock, reason_of
from memsched.inductor.fit.choose import climb_for, missed_words
from memsched.inductor.fit.rungs import planned_rung
from memsched.inductor.options import BackendOptions
from memsched.inductor.train_step.capture import capture
from memsched.inductor.train_step.clipping import random_state_kept
from memsched.inductor.train_step.failure import StepInterrupted
from memsched.inductor.train_step.options import StepOptions
from memsched.inductor.train_step.program import NotCompiled, Program, Request
from memsched.inductor.train_step.refusals import (
    Refusal,
    Signature,
    check_graph,
    check_model,
    check_optimizer,
    check_signature,
    signature_of,
)
from memsched.inductor.train_step.report import StepReport
from memsched.levers.ladder import Ladder, Rung
from memsched.levers.setting import Setting
from memsched.records.published import count
from memsched.records.report import GraphReport

__all__ = ["Refusal", "StepInterrupted", "TrainStep", "plan_train_step", "train_step"]

log = logging.getLogger("memsched")


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainStep:
    """One call of the result trains on one batch; see `TrainStep`.

    model: returns the loss, or what `loss_fn` takes.
    optimizer: `torch.optim` SGD, Adam, AdamW or Adafactor over exactly the parameters of the model that need gradients.
    loss_fn: `loss_fn(model(*batch[:-1]), batch[-1])` is the loss: the last element of a batch is the target.
    options: of `memsched_backend`, of Inductor, and `clip_grad_norm`, `clip`, `state_dtype` (`StepOptions`).

    Raises:
        Refusal: a model, optimizer or option that does not fit; one line that names it (a ValueError).
    """
    return TrainStep(model, optimizer, loss_fn, StepOptions.read(options))


def plan_train_step(
    model: nn.Module,
    optimizer: Optimizer,
    batch: Sequence[Any],
    loss_fn: Callable[[Any, Any], Tensor] | None,
    options: BackendOptions,
) -> GraphReport:
    """The plan of one step under `options`; nothing is compiled, run or changed.  Raises Refusal."""
    return TrainStep(model, optimizer, loss_fn, StepOptions(backend=options)).plan(*batch).plan


class TrainStep:
    """A training step, compiled at its first call.

    Learning rates and all other numbers of the optimizer's groups may change between calls without a compile.  A
    change of form (momentum where there was none, another batch shape is refused) compiles once more.

    grad_norm: with `clip_grad_norm`, the norm of the gradients of the last step before clipping.
    reports: one for every compile of an update.
    request: what the next run of a program is for.
    ladder: with a `peak_budget`, or `chunk_loss="auto"`, the settings that were planned before the first step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Callable[[Any, Any], Tensor] | None,
        options: StepOptions,
    ) -> None:
        check_optimizer(model, optimizer)
        check_model(model)
        self.model, self.optimizer, self.loss_fn, self.options = model, optimizer, loss_fn, options
        self.grad_norm: Tensor | None = None
        self.reports: list[StepReport] = []
        self._signature: Signature | None = None
        self._programs = 0
        self.request = Request("update")
        self.ladder: Ladder | None = None
        traced = MethodType(_with_code_of_its_own(TrainStep._loss), self)
        self._forward = torch.compile(traced, backend=self._backend, fullgraph=True, dynamic=False)
        self._stock: Callable[..., Tensor] | None = None
        if (reason := unsupported_reason()) is not None:
            self._leave_to_stock(RuntimeError(reason))

    def __call__(self, *batch: Any) -> Tensor:
        """Train on `batch`; its loss, from before the update, detached.

        Gradients that parameters already have (from `accumulate`, or from a backward of the user's) are added to those
        of this batch; afterwards every `.grad` is None.

        Raises:
            Refusal: a batch that is not like the first one, a loss that is not one; nothing was changed.
            StepInterrupted: an error in the middle of the step; says which parameters were updated.
        """
        clip = self.options.clip_grad_norm
        if clip is None:
            loss = self._run(Request("update"), batch)
        elif self.options.clip == "hold":
            loss = self._run(Request("update", "held", clip), batch)
        else:
            devices = {parameter.device for parameter in self.model.parameters()}
            with random_state_kept(sorted(devices, key=str)):
                self._run(Request("norm"), batch)
            assert self.grad_norm is not None or self._stock is not None
            norm = float(self.grad_norm) if self.grad_norm is not None else 0.0
            loss = self._run(Request("update", "given", min(1.0, clip / (norm + 1e-6))), batch)
        self.optimizer._opt_called = True  # type: ignore[attr-defined]  # what schedulers look for
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        return loss

    def accumulate(self, *batch: Any) -> Tensor:
        """Add the gradients of a micro-batch to `.grad`, as `loss.backward()` does; its loss, detached.

        The last micro-batch goes to `step(*batch)`.  What the loss is divided by is the caller's choice.
        """
        return self._run(Request("accumulate"), batch)

    def plan(self, *batch: Any) -> StepReport:
        """The memory that a step on `batch` will need, without generating code, running or changing anything.

        Raises:
            Refusal: as a call would.
        """
        already, states = len(self.reports), set(self.optimizer.state)
        way = {"hold": "held", "recompute": "given"}[self.options.clip]
        self._run(Request("update", way if self.options.clip_grad_norm else "", plan_only=True), batch)
        self._forget_state(states)
        if len(self.reports) == already:
            raise Refusal("no plan was made; the log of memsched says why")
        return self.reports.pop()

    @property
    def report(self) -> StepReport | None:
        """The memory of the step that was compiled last; None if it came out of a cache or was left to stock."""
        return self.reports[-1] if self.reports else None

    def _run(self, request: Request, batch: Sequence[Any]) -> Tensor:
        if self._signature is not None:
            check_signature(batch, self._signature)
        if self.options.backend.pulled and self._stock is None:
            self._pull_levers(batch)
        if self._stock is not None:
            return self._run_stock(request, batch)
        self.request, states = request, set(self.optimizer.state)
        try:
            loss = self._forward(*batch)
        except BackendCompilerFailed as error:
            if isinstance(error.inner_exception, Refusal):
                raise error.inner_exception from None
            self._leave_to_stock(error.inner_exception)
            return self._run_stock(request, batch)
        except NotCompiled as error:
            self._forget_state(states)
            self._leave_to_stock(error.__cause__ or error)
            return self._run_stock(request, batch)
        except TorchDynamoException as error:
            raise Refusal(f"the model cannot be traced as one graph: {reason_of(error)}") from error
        if self._programs == 0 or not isinstance(loss, Tensor):
            raise Refusal("the loss does not depend on any parameter that requires a gradient")
        self._signature = self._signature or signature_of(batch)
        return loss

    def _pull_levers(self, batch: Sequence[Any]) -> None:
        """Plan the step under one setting after the other; from here on the options have the chosen one."""
        given = self.options

        def plan(setting: Setting) -> Rung:
            at = replace(given, backend=given.backend.at(setting))
            trial = TrainStep(self.model, self.optimizer, self.loss_fn, at)
            return planned_rung(setting, lambda: [trial.plan(*batch).plan])

        chosen = given.backend.setting
        try:
            self.ladder = climb_for(given.backend, plan)
            chosen = self.ladder.chosen.setting
        except Exception as error:
            if given.backend.strict:
                raise
            leave_to_stock("the choice of levers", "pulling levers", reason_of(error))
        if self.ladder is not None and not self.ladder.fits:
            log.warning("memsched: %s", missed_words(self.ladder))
        self.options = replace(given, backend=given.backend.at(chosen))

    def _forget_state(self, states: set[Any]) -> None:
        """Undo the creation of state for a step that did not come: keep that of the parameters `states` only."""
        for parameter in set(self.optimizer.state) - states:
            del self.optimizer.state[parameter]

    def _loss(self, *batch: Any) -> Any:
        """What Dynamo traces."""
        if self.loss_fn is None:
            return self.model(*batch)
        return self.loss_fn(self.model(*batch[:-1]), batch[-1])

    def _backend(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        check_graph(gm)
        check_model(self.model)
        check_optimizer(self.model, self.optimizer)
        patches, own = dict(self.options.inductor or {}), self.options.backend
        if own.enabled:
            patches |= partition_patches(own, patches)
        captured = capture(gm, example_inputs, patches)
        self._programs += 1
        return Program(self, captured, example_inputs)

    def _leave_to_stock(self, error: BaseException) -> None:
        """From here on torch.compile, autograd and the optimizer do the step, as they would have without memsched."""
        if self.options.backend.strict:
            raise RuntimeError("memsched.train_step: the step could not be compiled") from error
        count("train step")
        log.warning("memsched: the training step is left to torch.compile and the optimizer (%s)", reason_of(error))
        self._stock = self._make_stock()

    def _make_stock(self) -> Callable[..., Tensor]:
        stock: Callable[..., Tensor] = torch.compile(self._loss, dynamic=False)
        return stock

    def _run_stock(self, request: Request, batch: Sequence[Any]) -> Tensor:
        assert self._stock is not None
        if request.purpose == "norm":
            return torch.zeros(())  # clipping happens after the one backward
        loss = self._stock(*batch)
        loss.backward()
        if request.purpose == "update":
            if self.options.clip_grad_norm is not None:
                parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
                self.grad_norm = nn.utils.clip_grad_norm_(parameters, self.options.clip_grad_norm)
            self.optimizer.step()
        return loss.detach()


def _with_code_of_its_own(function: Any) -> FunctionType:
    """A copy of `function`: Dynamo keeps what it compiles by code object, and only so much for each."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)

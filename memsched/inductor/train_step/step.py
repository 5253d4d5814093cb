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

    Dynamo ─> gm ──> capture    forward and backward joined, as stock Inductor would have split them
                  ─> program    one run: which graph, with which inputs
                  ─> graph      + updates (rules/), sums, norms (clipping), losses in float16 (scaling)
                  ─> compile    Inductor with memsched's passes; failure tells what was updated
    optimizers ─> state         `optimizer.state` and `param_groups` as inputs of the graph
    before all ─> refusals      what does not fit, in one line; replicas: the processes that average gradients
                  levers        to a budget, which levers are pulled
    after all ──> report        the memory of the step as a whole; stock: what a failure leaves it to

The claim: the same losses, parameters and state as the three calls above up to the rounding of a compiled model, with
no gradient alive longer than its own update needs.  Measured in bench/run/train_step.py.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
from torch.optim import Optimizer

from memsched.inductor.backend import partition_patches
from memsched.inductor.calls import Batch, WithLoss, batch_of, call_model, loss_or_all, optimizers_of
from memsched.inductor.capture.lower import with_code_of_its_own
from memsched.inductor.compat import log_messages_dropped, unsupported_reason
from memsched.inductor.failures import break_of, reason_of
from memsched.inductor.train_step.capture import capture
from memsched.inductor.train_step.clipping import Clip, random_state_kept
from memsched.inductor.train_step.failure import StepInterrupted
from memsched.inductor.train_step.graph import Purpose
from memsched.inductor.train_step.levers import pull_levers
from memsched.inductor.train_step.options import StepOptions
from memsched.inductor.train_step.program import NotCompiled, Program, Request, Until
from memsched.inductor.train_step.refusals import (
    Refusal,
    Signature,
    check_graph,
    check_model,
    check_optimizers,
    check_signature,
    signature_of,
)
from memsched.inductor.train_step.replicas import OVERLAP, check_shards, replicas_of
from memsched.inductor.train_step.report import StepReport
from memsched.inductor.train_step.scaling import Scale, record_step, scale_of
from memsched.inductor.train_step.stock import StockStep
from memsched.levers.ladder import Ladder
from memsched.records.published import count

__all__ = ["Refusal", "StepInterrupted", "TrainStep", "train_step"]

log = logging.getLogger("memsched")


def train_step(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainStep:
    """One call of the result trains on one batch; see `TrainStep`.

    model: in DistributedDataParallel or not; returns the loss, an object or dictionary with a `loss` (as Hugging Face's
        models do), or what `loss_fn` takes.
    optimizer: one of `torch.optim` (`train_step.rules.RULES` has them), or several that share the parameters between
        them: together exactly those parameters of the model that need gradients.
    loss_fn: `loss_fn(model(*batch[:-1]), batch[-1])` is the loss: the last element of a batch is the target.  Of a
        batch of keyword arguments the model gets those that its forward names, and `loss_fn(output, batch)` all.
    options: of `memsched_backend`, of Inductor, and `clip_grad_norm`, `clip`, `clip_grad_value`, `grad_scaler`,
        `state_dtype`, `batch_shapes`, `process_group`, `bucket_size` (`StepOptions`).

    Raises:
        Refusal: a model, optimizer or option that does not fit; one line that names it (a ValueError).
    """
    return TrainStep(model, optimizer, loss_fn, StepOptions.read(options))


class TrainStep:
    """A training step, compiled at its first call.

    Learning rates and all other numbers of the optimizer's groups may change between calls without a compile.  A
    change of form (momentum where there was none, a batch of another shape) compiles once more; `batch_shapes` of the
    options says how many kinds of batches it may come to.

    model: without its wrapper; replicas: the processes that train copies of it.
    grad_norm: with `clip_grad_norm`, the norm of the gradients of the last step before clipping, without their scale.
    finite: with `grad_scaler`, whether the gradients of the last step were finite; if not, nothing was updated.  True
        of a step that is left to stock, where only the scaler knows.
    reports: one for every compile of an update.
    request: what the next run of a program is for.
    ladder: with a `peak_budget`, or `chunk_loss="auto"`, the settings that were planned before the first step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        loss_fn: Callable[[Any, Any], Any] | None,
        options: StepOptions,
    ) -> None:
        self.optimizers = optimizers_of(optimizer)
        check_optimizers(model, self.optimizers)
        if options.scaler is not None and len(self.optimizers) > 1:
            raise Refusal("GradScaler skips the step of each optimizer by itself, a train step that of all or none")
        self.replicas = replicas_of(model, options.process_group, options.bucket_bytes)
        self.model = model if self.replicas is None else self.replicas.model
        check_model(self.model)
        check_shards(self.model)
        if self.replicas is not None:
            self.replicas.begin()
            options = replace(options, inductor={**OVERLAP, **(options.inductor or {})})
        self.loss_fn, self.options = loss_fn, options
        self._given = options
        self._with_loss = self.model if loss_fn is None else WithLoss(self.model, loss_fn)
        self._buffers_differ = True
        self.grad_norm: Tensor | None = None
        self.finite = True
        self.reports: list[StepReport] = []
        self._signatures: list[Signature] = []
        self._programs = 0
        self.request = Request(Purpose.UPDATE)
        self.ladder: Ladder | None = None
        traced = MethodType(with_code_of_its_own(TrainStep._loss), self)
        self._forward = torch.compile(traced, backend=self._backend, fullgraph=True, dynamic=False)
        self._stock: StockStep | None = None
        if (reason := unsupported_reason()) is not None:
            self._leave_to_stock(RuntimeError(reason))

    def __call__(self, *args: Any, **named: Any) -> Tensor:
        """Train on a batch, given as the model takes it; its loss, from before the update, detached.

        A single dictionary is the same as keyword arguments, if the model's forward takes those.

        Gradients that parameters already have (from `accumulate`, or from a backward of the user's) are added to those
        of this batch; afterwards every `.grad` is None.

        Raises:
            Refusal: a batch of one kind too many, a loss that is not one; nothing was changed.
            StepInterrupted: an error in the middle of the step; says which parameters were updated.
        """
        loss = self._updated(self._batch(args, named))
        for optimizer in self.optimizers:
            optimizer._opt_called = True  # what schedulers look for
        for parameter in self._parameters():
            parameter.grad = None
        return loss

    def _updated(self, batch: Batch) -> Tensor:
        """Make the step, after a look at all gradients where that is asked for; the loss."""
        request, options = self._update_request(), self.options
        if options.looks_first:
            devices = {parameter.device for parameter in self.model.parameters()}
            looking = Scale.NONE if options.scaler is None else Scale.TAKEN
            with random_state_kept(sorted(devices, key=str)):
                loss = self._run(replace(request, purpose=Purpose.LOOK, clip=Clip.NONE, scaling=looking), batch)
            if options.clip_grad_norm is not None and self.grad_norm is not None:
                coefficient = min(1.0, options.clip_grad_norm / (float(self.grad_norm) + 1e-6))
                request = replace(request, number=coefficient)
        if self.finite or not options.looks_first:
            loss = self._run(request, batch)
        if options.scaler is not None and self._stock is None:
            record_step(options.scaler, self.optimizers[0], self.finite, self._device)
        return loss

    def _update_request(self) -> Request:
        options = self.options
        number = options.clip_grad_value or options.clip_grad_norm or 0.0
        return Request(Purpose.UPDATE, options.clipping, number, options.scaling, self._scale())

    def _scale(self) -> Tensor | None:
        """The scale of the loss, if it has one."""
        scaler = self.options.scaler
        return None if scaler is None else scale_of(scaler, self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def accumulate(self, *args: Any, **named: Any) -> Tensor:
        """Add the gradients of a micro-batch to `.grad`, as `loss.backward()` does; its loss, detached.

        The last micro-batch goes to `step(*batch)`.  What the loss is divided by is the caller's choice.
        """
        scaling = Scale.NONE if self.options.scaler is None else Scale.TAKEN
        request = Request(Purpose.ACCUMULATE, scaling=scaling, scale=self._scale())
        return self._run(request, self._batch(args, named))

    def plan(self, *args: Any, **named: Any) -> StepReport:
        """The memory that a step on a batch will need, without generating code, running or changing anything.

        Raises:
            Refusal: as a call would.
        """
        return self.plan_batch(self._batch(args, named))

    def plan_batch(self, batch: Batch, until: Until = Until.FUSION) -> StepReport:
        """The same, of a batch as one value; with the code, for a caller that catches it.  Raises Refusal."""
        already, states = len(self.reports), self._states()
        self._run(replace(self._update_request(), until=until), batch)
        self._forget_state(states)
        if len(self.reports) == already:
            raise Refusal("no plan was made; the log of memsched says why")
        return self.reports.pop()

    @property
    def report(self) -> StepReport | None:
        """The memory of the step that was compiled last; None if it came out of a cache or was left to stock."""
        return self.reports[-1] if self.reports else None

    def _batch(self, args: Sequence[Any], named: Mapping[str, Any]) -> Batch:
        """The batch as the model takes it; with a `loss_fn` a dictionary has what both take."""
        return batch_of(self._with_loss, args, named)

    def _run(self, request: Request, batch: Batch) -> Tensor:
        signature = signature_of(batch)
        new = signature not in self._signatures
        if new and self._signatures:
            check_signature(batch, self._signatures, self.options.batch_shapes)
        if new and self._given.backend.pulled and self._stock is None:
            self._pull_levers(batch)
        if self._stock is not None:
            return self._run_stock(request, batch)
        if request.until is Until.THE_END:
            self._share_buffers(request)
        self.request, states = request, self._states()
        try:
            # A known batch may be traced anew, in another mode of the model; only a new one is counted.
            counted = _programs_allowed(self.options.batch_shapes) if new else contextlib.nullcontext()
            with log_messages_dropped(), counted:
                loss = call_model(self._forward, batch)
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
            raise Refusal(f"the model cannot be traced as one graph: {break_of(error)}") from error
        if self._programs == 0 or not isinstance(loss, Tensor):
            raise Refusal("the loss does not depend on any parameter that requires a gradient")
        if new:
            self._signatures.append(signature)
        return loss

    def _share_buffers(self, request: Request) -> None:
        """As DistributedDataParallel: before each forward, but not behind one whose gradients are only accumulated."""
        if self.replicas is not None and self.replicas.buffers and self._buffers_differ:
            self.replicas.share(self.model.buffers())
        self._buffers_differ = request.purpose is not Purpose.ACCUMULATE

    def _pull_levers(self, batch: Batch) -> None:
        """Plan the step on such a batch under one setting after the other; the options get the chosen one."""
        model = (self.replicas and self.replicas.wrapper) or self.model

        def plan(options: StepOptions) -> StepReport:
            return TrainStep(model, self.optimizers, self.loss_fn, options).plan_batch(batch)

        self.options, self.ladder = pull_levers(self._given, plan)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]

    def _states(self) -> list[set[Any]]:
        """For each optimizer the parameters that have a state."""
        return [set(optimizer.state) for optimizer in self.optimizers]

    def _forget_state(self, states: Sequence[set[Any]]) -> None:
        """Undo the creation of state for a step that did not come: keep that of the parameters `states` only."""
        for optimizer, kept in zip(self.optimizers, states, strict=True):
            for parameter in set(optimizer.state) - kept:
                del optimizer.state[parameter]

    def _loss(self, *batch: Any, **named: Any) -> Any:
        """What Dynamo traces."""
        return loss_or_all(self._with_loss(*batch, **named))

    def _backend(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        check_graph(gm)
        check_model(self.model)
        check_optimizers(self.model, self.optimizers)
        patches, own = dict(self.options.inductor or {}), self.options.backend
        if own.enabled:
            patches |= partition_patches(own, patches)
        captured = capture(gm, example_inputs, patches)
        self._programs += 1
        return Program(self, captured, example_inputs, self.options)

    def _leave_to_stock(self, error: BaseException) -> None:
        """From here on torch.compile, autograd and the optimizer do the step, as they would have without memsched."""
        if self.options.backend.strict:
            raise RuntimeError("memsched.train_step: the step could not be compiled") from error
        count("train step")
        log.warning("memsched: the training step is left to torch.compile and the optimizer (%s)", reason_of(error))
        self._stock, self.finite = self._make_stock(), True

    def _make_stock(self) -> StockStep:
        wrapper = None if self.replicas is None else self.replicas.stock()
        model = self.model if wrapper is None else wrapper
        with_loss = model if self.loss_fn is None else WithLoss(model, self.loss_fn)

        def loss(*batch: Any, **named: Any) -> Any:
            return loss_or_all(with_loss(*batch, **named))

        unsynchronized = contextlib.nullcontext if wrapper is None else wrapper.no_sync
        compiled = torch.compile(loss, dynamic=False)
        return StockStep(compiled, self.optimizers, self.options, unsynchronized)

    def _run_stock(self, request: Request, batch: Batch) -> Tensor:
        assert self._stock is not None
        loss = self._stock.run(request, batch)
        self.grad_norm = self._stock.grad_norm
        return loss


def _programs_allowed(kinds: int) -> contextlib.AbstractContextManager[None]:
    """Dynamo gives up on a function that it has compiled eight times; here each time is for a kind of batch."""
    limit = max(2 * kinds, torch._dynamo.config.recompile_limit)
    patched: contextlib.AbstractContextManager[None] = torch._dynamo.config.patch(recompile_limit=limit)
    return patched

"""Planning one step of a model for an explanation: memsched's plans, stock's, what the caller holds, and experiments.

Everything is planned, nothing is compiled (`memsched.inductor.capture.plan_only`), unless the step is to be measured.

All of it on fake twins of the model's tensors where that can be: a step that fits into no memory is explained, too.
The model is left as it was: parameters, gradients, buffers, modes and the random state.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from memsched.core.sizes import InputError, format_bytes
from memsched.inductor.calls import Batch, Model, Optimizers
from memsched.inductor.capture.fakes import on_fakes
from memsched.inductor.capture.one_graph import check_one_graph, planned_as_one
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.failures import reason_of
from memsched.inductor.held import held_bytes
from memsched.inductor.options import BackendOptions
from memsched.inductor.questions.curve import measure_step
from memsched.inductor.questions.experiments import experiments
from memsched.inductor.questions.fake_step import FakeStep
from memsched.inductor.questions.next_rungs import next_rungs
from memsched.records.question import StepQuestion
from memsched.records.report import GraphKind, GraphReport
from memsched.records.step import Experiment, HeldBytes, MeasuredCurve, PlannedStep

__all__ = ["NotOnFakes", "Progress", "plan_fake_step", "plan_step"]

T = TypeVar("T")

Progress = Callable[[str], None]

ALL = StepQuestion()
"""The whole training step on the CPU, with stock's and the experiments beside it."""

_ONE_BY_ONE = " (--allow-graph-breaks, or fullgraph=False, takes them one by one)"


def _ignore(_text: str) -> None:
    """Nobody wants to be told."""


def plan_step(
    model: Model,
    batch: Batch,
    question: StepQuestion = ALL,
    *,
    optimizers: Optimizers = None,
    options: BackendOptions | None = None,
    progress: Progress = _ignore,
) -> PlannedStep:
    """Plan `model` with `batch` and, if it is asked for, the backward of its loss.

    It is planned on fake twins of its tensors, which cost no memory and leave its own as they are.  A model that needs
    values to be traced, or that is to be measured, runs on its own tensors.

    Raises:
        InputError: a device that is not there or that the model is not on, a model that does not compile, no loss,
            with `fullgraph` a model that breaks into several graphs.
    """
    _check_device(model, batch, question.device)
    held = held_bytes(model, batch, optimizers)
    planner = _Planner(question, _options_for(question, options), progress)
    if isinstance(model, nn.Module) and not question.measure:
        with contextlib.suppress(NotOnFakes), _mode_of(model, question.train), on_fakes(model, batch) as twins:
            return planner.plan(model, twins, held)
    with _undisturbed(model, question.train):
        return planner.plan(model, batch, held, real=True)


def plan_fake_step(
    step: FakeStep, question: StepQuestion, options: BackendOptions | None = None, progress: Progress = _ignore
) -> PlannedStep:
    """`plan_step` of a step that was built on fake tensors of the device.

    Raises:
        InputError: as it does; NotOnFakes where the model does not compile.
    """
    modes = _mode_of(step.model, question.train) if isinstance(step.model, nn.Module) else contextlib.nullcontext()
    with modes, step.mode:
        return _Planner(question, _options_for(question, options), progress).plan(step.model, step.batch, step.held)


class NotOnFakes(InputError):
    """The model does not compile on fake tensors: it may need values."""


def _options_for(question: StepQuestion, options: BackendOptions | None) -> BackendOptions:
    options = options or BackendOptions()
    return replace(options, measure_scratch=False) if question.portable else options


@dataclass(frozen=True)
class _Planner:
    """Answers one question."""

    question: StepQuestion
    options: BackendOptions
    progress: Progress

    def plan(self, model: Model, batch: Batch, held: HeldBytes, real: bool = False) -> PlannedStep:
        """All that was asked for; raises InputError, on fake tensors `NotOnFakes` where the model does not compile."""

        def plan() -> PlannedStep:
            return self._planned(model, batch, held, real)

        with contextlib.nullcontext() if self.question.train else torch.no_grad():
            planned, note = planned_as_one(plan, model, batch, _ONE_BY_ONE)
        return replace(planned, note=note)

    def _planned(self, model: Model, batch: Batch, held: HeldBytes, real: bool) -> PlannedStep:
        question, train = self.question, self.question.train
        measured: dict[str, MeasuredCurve] = {}
        self.progress("compiling and measuring the step" if question.measure else "planning the step")
        try:
            if question.measure:
                reports, measured = _guarded(lambda: measure_step(model, batch, self.options, question.device), train)
            else:
                reports = _plan(model, batch, train, self.options)
        except InputError as error:
            raise error if real else NotOnFakes(str(error)) from error
        _check_reports(reports, train, question.fullgraph)
        self.progress(f"the step needs {_bytes_of(reports)} above what the caller holds")
        observed: list[GraphReport] = []
        if question.stock:
            self.progress("planning what stock Inductor would do")
            observed = _plan(model, batch, train, self.options, stock=True)
        tried: list[Experiment] = []
        if question.experiments:

            def plan(model: Model, batch: Batch) -> list[GraphReport]:
                return _plan(model, batch, train, self.options)

            for change, make in experiments(model, batch, reports, train, plan):
                self.progress(f"planning {change}")
                tried.append(make())
            if train:
                tried += next_rungs(lambda at: _plan(model, batch, train, at), reports, self.options, self.progress)
        return PlannedStep(tuple(reports), tuple(observed), held, tuple(tried), measured, train, question.device)


def _bytes_of(reports: Sequence[GraphReport]) -> str:
    return format_bytes(max(report.peak for report in reports))


def _plan(
    model: Model, batch: Batch, train: bool, options: BackendOptions, *, stock: bool = False
) -> list[GraphReport]:
    """The plans, or those of stock.  Raises InputError."""
    return _guarded(lambda: plan_only(model, batch, options, stock=stock), train)


def _guarded(make: Callable[[], T], train: bool) -> T:
    """What `make` returns, without gradients unless `train`; raises InputError when the model does not compile."""
    try:
        with _quiet(), contextlib.nullcontext() if train else torch.no_grad():
            return make()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the model does not compile: {reason_of(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the traceback that PyTorch logs when an operator is given wrong shapes: the error is told in one line."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _check_device(model: Model, batch: Batch, device: str) -> None:
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is unknown") from None
    if wanted.type == "cuda" and not torch.cuda.is_available():
        sees = f"this torch ({torch.__version__}) sees no CUDA device"
        raise InputError(f"device {device!r}: {sees} (`memsched plan` plans for one that is not there)")
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    tensors += list(model.parameters()) if isinstance(model, nn.Module) else []
    for tensor in tensors:
        if tensor.device.type != wanted.type:
            raise InputError(f"device {device!r}: the model or its batch is on {tensor.device.type!r}")


def _check_reports(reports: Sequence[GraphReport], train: bool, fullgraph: bool) -> None:
    if not reports:
        raise InputError("nothing to plan: no graph with an op was compiled")
    if train and not any(report.kind is GraphKind.BACKWARD for report in reports):
        raise InputError(
            "the model returns no loss: nothing that it returns requires a gradient (inference: train=False)"
        )
    if fullgraph:
        check_one_graph(reports)


@contextlib.contextmanager
def _mode_of(model: nn.Module, train: bool) -> Iterator[None]:
    """Set the mode of the model, and put back that of every module, and the random state."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train(train)
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _undisturbed(model: Model, train: bool) -> Iterator[None]:
    """Set the mode of the model, and put back what planning, which runs the traced graphs, would change."""
    if not isinstance(model, nn.Module):
        with torch.random.fork_rng():
            yield
        return
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with _mode_of(model, train), torch.random.fork_rng():
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)

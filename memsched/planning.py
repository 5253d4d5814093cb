"""Will it fit?  The peak of a step predicted before it runs, by component, and the largest batch that fits.

    memsched plan train:step --device cuda --device-memory 24GiB --batch-size 1..64

Bytes are those of the wrappers that Inductor generates for the device, replayed (`memsched.inductor.bytes.replay`); no
device and no memory is needed.  Of the step peak

    held by the caller    parameters, buffers, batch, state of the optimizer
    saved                 what the forward leaves for the backward, and what the step returns
    gradients             results of the backward that are there when it peaks
    transients            everything that comes and goes
    workspace             of cuBLAS, which PyTorch takes from the same allocator and keeps

A step may peak in the optimizer, where all gradients and what it allocates itself need more than the graphs did
(`memsched.inductor.optimizer_step`).  The way "train_step" has the updates in its one graph instead.

What cannot be seen from here (the CUDA context, fragmentation, workspaces of cuDNN, autotuning) must fit into a
reserve, which the verdict leaves free.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from memsched.core.sizes import InputError
from memsched.levers.moments import Moment
from memsched.levers.step_moments import StepMoment
from memsched.records.report import GraphKind
from memsched.records.step import OptimizerStep

if TYPE_CHECKING:
    from memsched.inductor.cuda_without_gpu import CudaWorker, StepPlan

__all__ = [
    "CUBLAS_WORKSPACE",
    "DEVICES",
    "OPTIMIZER_STEP",
    "Prediction",
    "StepPlanner",
    "TargetPlanner",
    "largest_that_fits",
    "predict",
]

DEVICES = ("cuda", "cpu")

CUBLAS_WORKSPACE = 32 << 20
"""Default of aten/src/ATen/cuda/CublasHandlePool.cpp on Hopper and Blackwell; older GPUs take 8 MiB."""

OPTIMIZER_STEP = Moment.UPDATE.value
"""Where a step peaks that peaks in no graph."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The peak of one step by its parts; bytes.

    way: "memsched", "stock" or "train_step"; graph: where the step peaks, a graph, a moment of the whole step, or
        `OPTIMIZER_STEP`; kernels: of all graphs.
    optimizer_state: None when no optimizer was given, or when its state cannot be told.
    modelled: what memsched's model of memory says of `replayed`, the bytes of the graphs above what the caller holds.
    bound: what no order of the kernels of the graph that peaks undercuts, in that model; 0: not asked for.
    """

    way: str
    graph: str
    kernels: int
    parameters: int
    buffers: int
    batch: int
    optimizer_state: int | None
    gradients: int
    saved: int
    transients: int
    workspace: int
    replayed: int
    modelled: int
    bound: int

    @property
    def peak(self) -> int:
        """All of it."""
        held = self.parameters + self.buffers + self.batch + (self.optimizer_state or 0)
        return held + self.gradients + self.saved + self.transients + self.workspace

    @property
    def model_error(self) -> float:
        """How far the model that the planner searched under is from the bytes of the wrapper that came out; a share."""
        return self.modelled / self.replayed - 1 if self.replayed else 0.0

    def to_json(self, room: int | None = None) -> dict[str, Any]:
        """Plain values, with the peak and the model's error; whether it fits into `room` bytes, if that is asked."""
        values = {name: getattr(self, name) for name in self.__slots__}
        told = values | {"peak": self.peak, "model_error": self.model_error}
        return told if room is None else told | {"fits": self.peak <= room}


def predict(plan: StepPlan) -> Prediction:
    """The peak of a planned step.  The backward runs on what the forward retains."""
    backward = [graph for graph in plan.graphs if graph.report.kind is GraphKind.BACKWARD]
    forward = [graph for graph in plan.graphs if graph.report.kind is not GraphKind.BACKWARD]
    live, highest, base = 0, plan.graphs[0], 0
    for graph in [*forward, *reversed(backward)]:
        if live + graph.replayed > base + highest.replayed:
            highest, base = graph, live
        live += graph.retained
    at_backward = highest in backward
    report, held = highest.report, plan.held
    in_graphs = Prediction(
        way=plan.way,
        graph=report.name,
        kernels=sum(one.kernels for one in plan.reports),
        parameters=held.parameters,
        buffers=held.buffers,
        batch=held.batch,
        optimizer_state=held.optimizer_state,
        gradients=highest.results if at_backward else 0,
        saved=base - highest.freed if at_backward else highest.results,
        transients=highest.replayed + highest.freed - highest.results,
        workspace=CUBLAS_WORKSPACE if plan.device == "cuda" else 0,
        replayed=base + highest.replayed,
        modelled=report.peak,
        bound=report.lower_bound,
    )
    if plan.moments:
        return _in_moment(in_graphs, max(plan.moments, key=lambda moment: moment.alive))
    return _in_optimizer(in_graphs, held.update) if held.update is not None and backward else in_graphs


def _in_moment(step: Prediction, moment: StepMoment) -> Prediction:
    """The moment in which the graph of a whole step peaks, whose parts are those of the model of memory."""
    transients = step.replayed - moment.saved - moment.gradients
    return replace(step, graph=moment.moment, saved=moment.saved, gradients=moment.gradients, transients=transients)


def _in_optimizer(step: Prediction, update: OptimizerStep) -> Prediction:
    """The moment in which the optimizer needs the most; `step`, if its graphs need more."""
    later = replace(
        step,
        graph=OPTIMIZER_STEP,
        gradients=update.gradients,
        saved=0,
        transients=update.temporaries,
        replayed=update.transients,
        modelled=update.transients,
        bound=0,
    )
    return max(step, later, key=lambda prediction: prediction.peak)


class TargetPlanner:
    """What plans one target again and again, for CUDA in workers that it keeps; a context manager.

    Raises:
        InputError: an unknown device.
    """

    def __init__(self, target: str, device: str) -> None:
        if device not in DEVICES:
            raise InputError(f"device {device!r} is unknown: there are {' and '.join(DEVICES)}")
        self.target, self.device = target, device
        self._workers: list[CudaWorker] = []

    @contextlib.contextmanager
    def worker(self) -> Iterator[CudaWorker]:
        """The first worker; see `workers`."""
        with self.workers(1) as (worker,):
            yield worker

    @contextlib.contextmanager
    def workers(self, count: int) -> Iterator[list[CudaWorker]]:
        """Workers, started at their first use; what fails in them, or is missing for them, is an InputError."""
        from memsched.inductor.cuda_without_gpu import CudaUnavailable, CudaWorker, WorkerError

        try:
            while len(self._workers) < count:
                self._workers.append(CudaWorker())
            yield self._workers[:count]
        except (CudaUnavailable, WorkerError) as error:
            raise InputError(f"device {self.device!r}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for worker in self._workers:
            worker.close()


class StepPlanner(TargetPlanner):
    """Plans one target again and again, with other arguments.

    refusals: why optional ways of the last plan are not there; notes: what it takes for granted; a line each.

    Raises:
        InputError: an unknown device, or one for which nothing can be planned here; one line that says why.
    """

    def __init__(self, target: str, device: str, *, train: bool = True) -> None:
        super().__init__(target, device)
        self.train = train
        self.refusals: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()

    def plan(
        self,
        ways: Sequence[str] = ("memsched",),
        arguments: Mapping[str, Any] = MappingProxyType({}),
        progress: Progress | None = None,
        *,
        optional: Sequence[str] = (),
    ) -> list[Prediction]:
        """One prediction for each way, of what the target builds when it is given `arguments`.

        optional: ways that are left out where the target returns no optimizer, or, as `refusals` tells, do not take
            the step.

        Raises:
            InputError: the step cannot be built or compiled.
        """
        how = {"ways": tuple(ways), "arguments": dict(arguments), "train": self.train, "optional": tuple(optional)}
        progress = progress or (lambda _text: None)
        if self.device == "cpu":
            from memsched.inductor.cuda_without_gpu.capture import plan_target

            plans = plan_target(self.target, device="cpu", progress=progress, **how)  # type: ignore[arg-type]
        else:
            with self.worker() as worker:
                plans = worker.plans(self.target, progress=progress, **how)  # type: ignore[arg-type]
        self.refusals = tuple(plan.refusal for plan in plans if plan.refusal)
        self.notes = tuple(dict.fromkeys(plan.note for plan in plans if plan.note))
        return [predict(plan) for plan in plans if not plan.refusal]


def largest_that_fits(need: Callable[[int], int], limit: int, smallest: int, largest: int) -> int | None:
    """The largest number of `smallest..largest` that needs at most `limit` bytes; None when none does.

    need: bytes of a batch size, or of another argument.  It is asked few times: a peak grows almost linearly with the
        batch, so the next size is the one where the line through the last two answers crosses the limit.

    That need grows with the number is taken for granted; the answer itself fits, and one more does not.
    """
    fits, needed = smallest, need(smallest)
    if needed > limit:
        return None
    fails, needed_above = largest + 1, None
    while fails - fits > 1:
        guess = fails - 1 if needed_above is None else _crossing(fits, needed, fails, needed_above, limit)
        bytes_needed = need(guess)
        if bytes_needed <= limit:
            fits, needed = guess, bytes_needed
        else:
            fails, needed_above = guess, bytes_needed
    return fits


def _crossing(fits: int, needed: int, fails: int, needed_above: int, limit: int) -> int:
    """The last size below the crossing of the line with the limit, strictly between the two."""
    guess = fits + (limit - needed) * (fails - fits) // max(1, needed_above - needed)
    return min(max(guess, fits + 1), fails - 1)

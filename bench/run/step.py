"""One training step of one workload in three modes, measured in one process: eager, stock Inductor, memsched.

Every mode has its own copy of the model with the same weights and sees the same batch.  Memory is measured once per
mode, above what is live before the step (weights and batch), with gradients set to None.  Times are taken in
alternation, eager, stock, memsched, eager, ..., so that a slow moment of the machine hits all three alike.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.models import Workload
from memsched.inductor.bytes.measure import MemoryTrace, trace_memory
from memsched.inductor.observe import ObservingPass
from memsched.records.published import reports, reset
from memsched.records.report import GraphReport

__all__ = [
    "MODES",
    "Mode",
    "StepResult",
    "clear_gradients",
    "compare_gradients",
    "run_workload",
    "seconds_in_alternation",
    "training_step",
]

MODES = ("eager", "stock", "memsched")
Progress = Callable[[str], None]
Name = TypeVar("Name", bound=Hashable)


@dataclass
class Mode:
    """What one mode needed.  Bytes and seconds; modelled bytes are the larger of the forward and the backward graph."""

    name: str
    peak: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    planner_seconds: float = 0.0
    kernels: int | None = None
    modelled: int | None = None
    lower_bound: int | None = None
    status: str = ""
    fusions_refused: int | None = None
    difference: float | None = None
    trace: MemoryTrace | None = field(default=None, repr=False)
    graphs: list[GraphReport] = field(default_factory=list, repr=False)

    @property
    def gap(self) -> float | None:
        """Modelled peak over its lower bound, less one."""
        return self.modelled / self.lower_bound - 1 if self.modelled and self.lower_bound else None

    def to_json(self) -> dict[str, Any]:
        """The figures, without the curves and the graphs."""
        plain = {key: value for key, value in vars(self).items() if key not in ("trace", "graphs")}
        return plain | {"gap": self.gap}


@dataclass
class StepResult:
    """The three modes of one workload."""

    workload: str
    device: str
    modes: dict[str, Mode]

    def ratio(self, mode: str, other: str, what: str = "peak") -> float:
        """`what` of one mode over that of another."""
        return float(getattr(self.modes[mode], what) / getattr(self.modes[other], what))

    @property
    def planner_share(self) -> float:
        """Seconds of memsched's planner over the seconds that stock needs to compile the same model."""
        return self.modes["memsched"].planner_seconds / self.modes["stock"].compile_seconds

    def to_json(self) -> dict[str, Any]:
        """The figures of all modes."""
        return {
            "workload": self.workload,
            "device": self.device,
            "planner_share": self.planner_share,
            "modes": {name: mode.to_json() for name, mode in self.modes.items()},
        }


def run_workload(
    workload: Workload, device: str, repetitions: int, progress: Progress, options: dict[str, Any] | None = None
) -> StepResult:
    """Compile, check, measure and time one workload.

    options: of the memsched backend.

    Raises:
        AssertionError: gradients of a compiled mode that are not those of stock (memsched) or of eager (stock).
    """
    modes, steps, models = {}, {}, {}
    for name in MODES:
        progress(f"{workload.name}: {'running' if name == 'eager' else 'compiling'} {name}")
        models[name] = copy.deepcopy(workload.model)
        reset()
        started = time.perf_counter()
        steps[name] = training_step(models[name], _compiled(models[name], name, options), workload.batch)
        steps[name]()
        seconds = time.perf_counter() - started
        modes[name] = _described(name, reports(), 0.0 if name == "eager" else seconds)
    progress(f"{workload.name}: comparing gradients")
    for name, reference in (("stock", "eager"), ("memsched", "stock")):
        modes[name].difference = compare_gradients(models[name], models[reference])
    for name in MODES:
        progress(f"{workload.name}: measuring memory of {name}")
        steps[name]()
        clear_gradients(models[name])
        modes[name].trace = trace = trace_memory(steps[name], device)
        modes[name].peak = trace.peak
    progress(f"{workload.name}: timing")
    for name, seconds in seconds_in_alternation(steps, repetitions, device).items():
        modes[name].seconds = statistics.median(seconds)
    return StepResult(workload.name, device, modes)


def compare_gradients(model: nn.Module, reference: nn.Module, tolerance: float = 1e-3) -> float:
    """The largest difference between two gradients of the same parameter, relative to the largest entry of either.

    Where all entries are below a ten-thousandth of the largest of the whole model, that counts instead: the gradient of
    an attention's key bias, for one, is zero, and what is there is rounding.

    Raises:
        AssertionError: a gradient that only one of them has, or a difference above `tolerance`: more than rounding.
    """
    largest, floor = 0.0, 1e-4 * max(_largest_gradient(model), _largest_gradient(reference), 1e-26)
    for (name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        if (parameter.grad is None) != (other.grad is None):
            raise AssertionError(f"only one of two runs has a gradient for {name}")
        if parameter.grad is None or other.grad is None:
            continue
        scale = max(parameter.grad.abs().max().item(), other.grad.abs().max().item(), floor)
        largest = max(largest, (parameter.grad - other.grad).abs().max().item() / scale)
        if not largest <= tolerance:
            raise AssertionError(f"gradients of {name} differ by {largest:.1e} of their largest entry")
    return largest


def _largest_gradient(model: nn.Module) -> float:
    return max((p.grad.abs().max().item() for p in model.parameters() if p.grad is not None), default=0.0)


def clear_gradients(model: nn.Module) -> None:
    """Forget all gradients, so that the next step allocates them."""
    for parameter in model.parameters():
        parameter.grad = None


def _compiled(model: nn.Module, mode: str, options: dict[str, Any] | None) -> Callable[..., Tensor]:
    if mode == "eager":
        return model
    if mode == "stock":
        stock: Callable[..., Tensor] = torch.compile(model, options={"_post_fusion_custom_pass": ObservingPass()})
        return stock
    planned: Callable[..., Tensor] = torch.compile(model, backend="memsched", options=options or {})
    return planned


def training_step(model: nn.Module, forward: Callable[..., Tensor], batch: Sequence[Tensor]) -> Callable[[], None]:
    """A call that forgets the gradients of `model` and makes them again; `forward` is the model as compiled."""

    def step() -> None:
        clear_gradients(model)
        forward(*batch).backward()  # type: ignore[no-untyped-call]

    return step


def _described(name: str, graphs: list[GraphReport], compile_seconds: float) -> Mode:
    mode = Mode(name, compile_seconds=compile_seconds, graphs=graphs)
    if graphs:
        mode.kernels = sum(graph.kernels for graph in graphs)
        mode.modelled = max(graph.peak for graph in graphs)
    if name == "memsched" and graphs:
        mode.planner_seconds = sum(graph.seconds for graph in graphs)
        mode.lower_bound = max(graph.lower_bound for graph in graphs)
        mode.status = _status(mode, graphs)
        mode.fusions_refused = sum(graph.fusions_refused for graph in graphs)
    return mode


def _status(mode: Mode, graphs: Sequence[GraphReport]) -> str:
    if any(graph.fallback for graph in graphs):
        return "fallback"
    return "optimal" if mode.modelled == mode.lower_bound else "bounded"


def seconds_in_alternation(
    steps: Mapping[Name, Callable[[], object]], repetitions: int, device: str = "cpu"
) -> dict[Name, list[float]]:
    """The seconds of every run of each step: one after the other, again and again, so that a slow moment hits all."""
    seconds: dict[Name, list[float]] = {name: [] for name in steps}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(repetitions):
        for name, step in steps.items():
            wait()
            started = time.perf_counter()
            step()
            wait()
            seconds[name].append(time.perf_counter() - started)
    return seconds

"""A model planned under one fusion option after the other: the trade of peak against kernels, for `memsched pareto`.

    stock                 what Inductor does by itself, observed
    plan, slack s         fusions may exceed the planned peak by the share s
    budget b              as many fusions as fit into b bytes

Planning costs seconds (`memsched.inductor.capture.plan_only`); measuring the time of a step means compiling it.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from memsched.inductor.calls import call_model
from memsched.inductor.capture.lower import backward_of, traced_anew
from memsched.inductor.options import BackendOptions
from memsched.inductor.questions.plan_step import plan_step
from memsched.inductor.questions.target import Target, resolve_target
from memsched.records.question import StepQuestion
from memsched.records.report import GraphReport
from memsched.records.tradeoff import TradePoint

__all__ = ["SLACKS", "measure_point", "plan_target", "sweep_target"]

SLACKS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the planned peak that fusions may add, as far as a sweep tries them without being told."""


def plan_target(name: str, *, train: bool = True, device: str = "cpu") -> list[GraphReport]:
    """The plans of the graphs of one step of `module:function`; raises InputError."""
    target = resolve_target(name)
    return list(_plan(target, BackendOptions(), train, device).reports)


def sweep_target(
    name: str,
    options: Sequence[BackendOptions],
    *,
    train: bool = True,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda text: None,
) -> list[TradePoint]:
    """Stock's point, then one for each of `options`; the peak is of the graph that needs most.  Raises InputError."""
    target = resolve_target(name)
    points: list[TradePoint] = []
    for at, option in enumerate(options):
        progress(f"planning {label_of(option)} ({at + 1} of {len(options)})")
        step = _plan(target, option, train, device, stock=not points)
        if not points:
            points.append(_point("stock", step.stock))
        points.append(_point(label_of(option), step.reports))
    return points


def label_of(options: BackendOptions) -> str:
    """The options that matter here in a few words."""
    if options.fusion == "stock":
        return "stock's fusions, our order"
    label = f"budget {options.peak_budget}" if options.fusion == "budget" else f"plan, slack {options.fusion_slack:g}"
    if options.max_extra_kernels is not None:
        label += f", at most {options.max_extra_kernels} refused"
    return label


def measure_point(name: str, options: BackendOptions | None, *, train: bool = True, repetitions: int = 15) -> float:
    """The median seconds of a compiled step of `module:function`; without options, of stock Inductor."""
    target = resolve_target(name)
    model: Any = copy.deepcopy(target.model) if isinstance(target.model, torch.nn.Module) else target.model
    how: dict[str, Any] = {} if options is None else {"backend": "memsched", "options": options_of(options)}
    compiled = torch.compile(traced_anew(model), **how)

    def step() -> None:
        if not train:
            with torch.no_grad():
                call_model(compiled, target.batch)
            return
        if isinstance(model, torch.nn.Module):
            model.zero_grad(set_to_none=True)
        backward_of(call_model(compiled, target.batch))

    step()
    step()
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def options_of(options: BackendOptions) -> dict[str, Any]:
    """The options as `torch.compile` takes them."""
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


def _plan(target: Target, options: BackendOptions, train: bool, device: str, stock: bool = False) -> Any:
    question = StepQuestion(train, device, experiments=False, stock=stock)
    return plan_step(target.model, target.batch, question, options=options)


def _point(label: str, reports: Sequence[GraphReport]) -> TradePoint:
    return TradePoint(
        label,
        peak=max(report.peak for report in reports),
        kernels=sum(report.kernels for report in reports),
        refused=sum(report.fusions_refused for report in reports),
        lower_bound=max(report.lower_bound for report in reports),
    )

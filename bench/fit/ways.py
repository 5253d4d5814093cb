"""The ways to a lower peak that are compared, each a point: bytes of a step, measured, and what it computes.

    eager, eager with a checkpoint per block
    stock at 13 values of `activation_memory_budget`; with a checkpoint per block; with its own chunker of the loss
    memsched at each rung of its ladder, as far down as it goes, and at what it chooses for budgets, with all of stock's
    peaks among them: with the levers that are pulled where none is named, and with all of them

A compiled step runs with kernels that do nothing: the wrapper allocates and frees its real bytes (`bench.memory`), and
nothing is compiled.  FLOPs are those of products and convolutions in the traced graphs, forward and backward.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch.utils.flop_counter import FlopCounterMode

from bench.fit.models import FIT_MODELS
from bench.memory.no_kernels import kernels_that_do_nothing
from bench.models.policies import Policy, parse_policy
from memsched.inductor.bytes.measure import measure_peak
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.fit.rungs import planned_rung
from memsched.inductor.options import BackendOptions
from memsched.levers.ladder import Rung, climb
from memsched.levers.setting import AUTOMATIC, Lever, Setting

__all__ = ["Point", "points_of"]

_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.0)
"""Values of stock's `activation_memory_budget`."""
_BUDGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Of the peak that memsched's first rung has: what it is asked for."""


@dataclass(frozen=True, slots=True)
class Point:
    """One way at one setting: bytes of a step above what lives before it, measured and (compiled) planned; FLOPs."""

    model: str
    way: str
    setting: str
    measured: int
    planned: int
    flops: int
    options: Mapping[str, Any] = field(default_factory=dict)


def points_of(name: str, others: Sequence[Point] = ()) -> Iterator[Point]:
    """Every point of one model, as it is measured.

    others: points of eager and stock that were measured before, and are not again.
    """
    points = list(others)
    yield from points
    for point in () if others else itertools.chain(_eager(name), _stock(name)):
        points.append(point)
        yield point
    yield from _memsched(name, [point.measured for point in points if point.way == "stock"])


def _eager(name: str) -> Iterator[Point]:
    for setting in ("none", "block"):
        model, batch = _build(name, parse_policy(setting))
        step = _step(model, model, batch)
        with FlopCounterMode(display=False) as counter:
            step()
        yield Point(name, "eager", setting, measure_peak(step), 0, counter.get_total_flops())


def _stock(name: str) -> Iterator[Point]:
    for share in _SHARES:
        with functorch_config.patch(activation_memory_budget=share):
            yield _stock_point(name, f"budget {share:g}", Policy())
    yield _stock_point(name, "block", parse_policy("block"))
    with inductor_config.patch({"auto_chunker.enable": True}):
        yield _stock_point(name, "chunker", Policy())


def _stock_point(name: str, setting: str, policy: Policy) -> Point:
    model, batch = _build(name, policy)
    reports = plan_only(model, batch, stock=True)
    measured = _measured(name, policy, lambda model: torch.compile(model))
    planned, flops = max(report.peak for report in reports), sum(report.flops for report in reports)
    return Point(name, "stock", setting, measured, planned, flops)


def _memsched(name: str, peaks: Sequence[int]) -> Iterator[Point]:
    """memsched's points: the ladder, and what it chooses for shares of its first peak and for `peaks`, in bytes."""
    model, batch = _build(name, Policy())

    @functools.cache
    def plan(setting: Setting) -> Rung:
        return planned_rung(setting, lambda: plan_only(model, batch, BackendOptions(strict=True).at(setting)))

    rungs: dict[Setting, Rung] = {}
    for levers in (AUTOMATIC, tuple(Lever)):
        whole = climb(plan, levers)
        rungs |= {rung.setting: rung for rung in whole.rungs}
        for budget in (*(int(share * whole.rungs[0].peak) for share in _BUDGETS), *sorted(set(peaks))):
            chosen = climb(plan, levers, budget=lambda _first, budget=budget: budget).chosen  # type: ignore[misc]
            rungs[chosen.setting] = chosen
    for rung in sorted(rungs.values(), key=lambda rung: -rung.peak):
        options = rung.setting.to_options()
        measured = _measured(name, Policy(), _with(options))
        yield Point(name, "memsched", str(rung.setting), measured, rung.peak, rung.flops, options)


def _with(options: Mapping[str, Any]) -> Callable[[nn.Module], Callable[..., Tensor]]:
    """How a model is compiled with these options of the backend; where no plan is made, that is an error."""
    return lambda model: torch.compile(model, backend="memsched", options={"strict": True, **options})


def _build(name: str, policy: Policy) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    model, batch = FIT_MODELS[name](policy)
    return model, tuple(batch)


def _measured(name: str, policy: Policy, compile: Callable[[nn.Module], Callable[..., Tensor]]) -> int:
    """Bytes of a compiled step; the values mean nothing."""
    model, batch = _build(name, policy)
    with kernels_that_do_nothing():
        step = _step(model, compile(model), batch)
        step()
        return measure_peak(step)


def _step(model: nn.Module, forward: Callable[..., Tensor], batch: tuple[Tensor, ...]) -> Callable[[], None]:
    def run() -> None:
        forward(*batch).backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)

    return run

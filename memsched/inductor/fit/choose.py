"""The levers of one compile: what Dynamo traced is planned under one setting after the other, then compiled under one.

    gm ──> plan(setting) ──> rung ──> next setting ──> ... ──> options with the levers set ──> compile_fx

Planning a setting is what a compile does up to the end of fusion, forward and backward, on copies of the graph: nothing
is generated and nothing runs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.compile_fx import compile_fx

from memsched.core.sizes import format_bytes
from memsched.inductor.capture.lower import lower, planned_way
from memsched.inductor.compat import graph_numbers_kept
from memsched.inductor.failures import RESTARTS, leave_to_stock, reason_of
from memsched.inductor.fit.rungs import planned_rung
from memsched.inductor.options import BackendOptions
from memsched.levers.ladder import Ladder, Rung, climb
from memsched.levers.setting import Setting
from memsched.records.report import GraphReport

__all__ = ["budget_of", "chosen_options", "climb_for", "missed_words"]

log = logging.getLogger("memsched")


def chosen_options(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    options: BackendOptions,
    inductor: Mapping[str, Any],
) -> BackendOptions:
    """`options` with the levers set for this graph; as they were where nothing is to be pulled, or planning fails."""
    if not options.pulled or not _is_training(example_inputs):
        return options.at(options.setting)

    def plan(setting: Setting) -> Rung:
        return planned_rung(setting, lambda: _plans(gm, example_inputs, options.at(setting), inductor))

    try:
        with graph_numbers_kept():
            ladder = climb_for(options, plan)
        if not ladder.fits:
            log.warning("memsched: %s", missed_words(ladder))
        log.info("memsched: %s, after %d plans", ladder.chosen.setting, ladder.plans)
    except RESTARTS:
        raise
    except Exception as error:
        if options.strict:
            raise
        leave_to_stock("the choice of levers", "pulling levers", reason_of(error))
        return options.at(options.setting)
    return options.at(ladder.chosen.setting)


def climb_for(
    options: BackendOptions,
    plan: Callable[[Setting], Rung],
    on_rung: Callable[[Rung], None] = lambda _rung: None,
    *,
    limit: Callable[[Rung], int] | None = None,
    confirm: Callable[[Setting], Rung] | None = None,
    interruptible: bool = False,
) -> Ladder:
    """The ladder of `options`: to `limit`, or to its budget; without either, as far as its levers lower the peak.

    confirm: see `climb`.
    """
    return climb(
        plan,
        options.pulled,
        budget=limit or budget_of(options),
        first=options.setting,
        on_rung=on_rung,
        confirm=confirm,
        interruptible=interruptible,
    )


def budget_of(options: BackendOptions) -> Callable[[Rung], int] | None:
    """Bytes, given the first rung; None without a budget."""
    if options.peak_budget == "":
        return None
    return lambda rung: options.budget_bytes(rung.stock_peak)


def missed_words(ladder: Ladder) -> str:
    """One line for a budget that no setting meets: what is missing, when, and which tensor binds."""
    lowest, budget = ladder.rungs[-1], ladder.budget or 0
    return (
        f"the budget of {format_bytes(budget)} is missed by {format_bytes(lowest.peak - budget)}: the lowest "
        f"setting found ({lowest.setting}) needs {format_bytes(lowest.peak)} at {lowest.moment}, "
        f"where {lowest.blame} is alive"
    )


def _is_training(example_inputs: Sequence[Any]) -> bool:
    needs_gradient = (isinstance(value, torch.Tensor) and value.requires_grad for value in example_inputs)
    return torch.is_grad_enabled() and any(needs_gradient)


def _plans(
    gm: torch.fx.GraphModule, example_inputs: Sequence[Any], options: BackendOptions, inductor: Mapping[str, Any]
) -> list[GraphReport]:
    way = planned_way(options, inductor)
    reports: list[GraphReport] = []

    def plan_graph(graph: torch.fx.GraphModule, inputs: Sequence[Any], **how: Any) -> Any:
        own = torch.fx.GraphModule(graph, copy.deepcopy(graph.graph))
        reports.extend(lower(way, own, inputs, how))
        return make_boxed_func(graph.forward)

    own = torch.fx.GraphModule(gm, copy.deepcopy(gm.graph))
    settings = {"force_non_lazy_backward_lowering": True, "enable_autograd_cache": False}
    with functorch_config.patch(settings):
        compile_fx(own, example_inputs, inner_compile=plan_graph, config_patches=dict(way.cut))
    return reports

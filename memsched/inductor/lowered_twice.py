"""A rule that may raise the peak is judged by the plan: the graph is planned with its changes and without them.

    graph ──> a judged rule changes nothing ───────────────────────────────────────────> compiled
        └───> it would: stop ──> planned without ──> planned with ──> is that lower? ──> compiled
                                                                           └─ no: stop ──> without, compiled

What is fused, written in place and ordered decides what a change is worth, and is known after lowering only.  So the
compile starts over where a judged rule has something to change, which few graphs have, and lowers such a graph once
more, or twice where the change is taken back; nothing is generated before the last time.  What is compiled in the end
follows from the graph alone, so a cache keeps it under the key of the question.

Claim: what is compiled is planned no higher than without the judged rules.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx
from torch._guards import TracingContext
from torch._inductor import config

from memsched.inductor.compat import as_one_pass, passes_of
from memsched.inductor.failures import stock_goes_on
from memsched.inductor.options import BackendOptions
from memsched.inductor.passes import Judgment, RewritePass, Undecided
from memsched.inductor.publish import Sink
from memsched.inductor.stopping import StopAfter, stopped
from memsched.records.report import GraphReport

__all__ = ["lowered_twice"]

log = logging.getLogger("memsched")

_PLACE = "post_grad_custom_post_pass"
"""Where Inductor's config has the rules that may be judged (`GRAPH_RULES`)."""


def lowered_twice(compile_graph: Callable[..., Any], options: BackendOptions) -> Callable[..., Any]:
    """A `compile_fx_inner` under which the judged rules of Inductor's config are decided by the plan of each graph."""

    @functools.wraps(compile_graph)
    def compile_better(gm: fx.GraphModule, *args: Any, **how: Any) -> Any:
        if not any(map(_is_judged, passes_of(getattr(config, _PLACE)))):
            return compile_graph(gm, *args, **how)
        untouched = copy.deepcopy(gm.graph)
        with contextlib.suppress(Undecided), _as(Judgment.OPEN):
            return compile_graph(gm, *args, **how)
        peak: int | None = None
        with stock_goes_on("the choice of a rewrite", "planning a rewrite", strict=options.strict):
            peak = _peak_without(lambda own: compile_graph(own, *args, **how), gm, untouched)
        if peak is not None:
            gm.graph = copy.deepcopy(untouched)
            with contextlib.suppress(Undecided), _as(Judgment.WITH), _only_below(peak):
                return compile_graph(gm, *args, **how)
        gm.graph = untouched
        with _as(Judgment.WITHOUT):
            return compile_graph(gm, *args, **how)

    return compile_better


def _peak_without(
    compile_graph: Callable[[fx.GraphModule], Any], gm: fx.GraphModule, untouched: fx.Graph
) -> int | None:
    """Bytes that the graph needs without the changes; None where it cannot be planned."""
    reports: list[GraphReport] = []
    patches = {
        "_pre_fusion_custom_pass": config._pre_fusion_custom_pass.reporting_through(lambda _sink: reports.append),
        "_post_fusion_custom_pass": StopAfter(config._post_fusion_custom_pass),
        "fx_graph_cache": False,  # nothing is compiled, so nothing may be loaded
    }
    with _as(Judgment.WITHOUT), _strides_as_before(), config.patch(patches), stopped():
        compile_graph(fx.GraphModule(gm, copy.deepcopy(untouched)))
    return max(map(_peak_of, reports), default=None)


@contextlib.contextmanager
def _only_below(peak: int) -> Iterator[None]:
    """Within the context a compile whose plan does not stay below `peak` ends with `Undecided`, and is not reported."""

    def only_below(sink: Sink) -> Sink:
        def take(report: GraphReport) -> None:
            log.debug("memsched: %s needs %d bytes with a rewrite, %d without", report.name, _peak_of(report), peak)
            if report.fallback or _peak_of(report) >= peak:
                raise Undecided
            sink(report)

        return take

    name = "_pre_fusion_custom_pass"
    with config.patch({name: getattr(config, name).reporting_through(only_below)}):
        yield


def _peak_of(report: GraphReport) -> int:
    return report.emitted_peak or report.peak


@contextlib.contextmanager
def _as(judgment: Judgment) -> Iterator[None]:
    """Within the context every judged rule of Inductor's config stands at `judgment`."""
    passes = [one.at(judgment) if _is_judged(one) else one for one in passes_of(getattr(config, _PLACE))]
    with config.patch({_PLACE: as_one_pass(passes)}):
        yield


@contextlib.contextmanager
def _strides_as_before() -> Iterator[None]:
    """Behind the context the strides that autograd's compiler is told of are those that it was told before."""
    context = TracingContext.try_get()
    strides = None if context is None else context.output_strides
    before = list(strides or ())
    try:
        yield
    finally:
        if strides is not None:
            strides[:] = before


def _is_judged(one: Any) -> bool:
    return isinstance(one, RewritePass) and one.rule.is_judged

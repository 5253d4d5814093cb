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
from memsched.inductor.stopping import StopAfter, StopCompile, stopped
from memsched.records.report import GraphKind, GraphReport

__all__ = ["is_below", "lowered_twice", "only_if", "peak_of"]

_PLACE = "post_grad_custom_post_pass"
"""Where Inductor's config has the rules that may be judged (`GRAPH_RULES`)."""


def lowered_twice(compile_graph: Callable[..., Any], options: BackendOptions) -> Callable[..., Any]:
    """A `compile_fx_inner` under which the judged rules of Inductor's config are decided by the plan of each graph."""

    @functools.wraps(compile_graph)
    def compile_better(gm: fx.GraphModule, *args: Any, **how: Any) -> Any:
        if not any(map(_is_judged, passes_of(getattr(config, _PLACE)))):
            return compile_graph(gm, *args, **how)
        untouched = gm.graph

        def compile_copy() -> Any:
            gm.graph = copy.deepcopy(untouched)  # Inductor changes the graph that it is given
            return compile_graph(gm, *args, **how)

        with contextlib.suppress(Undecided), _as(Judgment.OPEN):
            return compile_copy()
        peak: int | None = None
        with stock_goes_on("the choice of a rewrite", "planning a rewrite", strict=options.strict):
            peak = _peak_without(compile_copy)
        if peak is not None:
            with only_if(is_below(peak)), _as(Judgment.WITH):
                return compile_copy()
        with _as(Judgment.WITHOUT):
            return compile_copy()

    return compile_better


def _peak_without(compile_graph: Callable[[], Any]) -> int | None:
    """Bytes that the graph needs without the changes; None where it cannot be planned."""
    reports: list[GraphReport] = []
    patches = {
        "_pre_fusion_custom_pass": config._pre_fusion_custom_pass.reporting_through(lambda _sink: reports.append),
        "_post_fusion_custom_pass": StopAfter(config._post_fusion_custom_pass),
        "fx_graph_cache": False,  # nothing is compiled, so nothing may be loaded
    }
    with _as(Judgment.WITHOUT), _strides_as_before(), config.patch(patches), stopped():
        compile_graph()
    return max(map(peak_of, reports), default=None)


class _NotWanted(StopCompile):
    """What ends a compile whose plan was looked at."""


@contextlib.contextmanager
def only_if(is_wanted: Callable[[GraphReport], bool]) -> Iterator[None]:
    """A context that ends where the plan of a graph is not wanted: before it is reported, and before any code."""
    end = _NotWanted()

    def asking(sink: Sink) -> Sink:
        def take(report: GraphReport) -> None:
            if report.kind is not GraphKind.SUBGRAPH and not is_wanted(report):
                raise end
            sink(report)

        return take

    name = "_pre_fusion_custom_pass"
    try:
        with config.patch({name: getattr(config, name).reporting_through(asking)}):
            yield
    except _NotWanted as raised:
        if raised is not end:
            raise


def is_below(peak: int) -> Callable[[GraphReport], bool]:
    """Whether a plan needs less; not one that was left to stock, whose bytes nobody knows."""
    return lambda report: not report.fallback and peak_of(report) < peak


def peak_of(report: GraphReport) -> int:
    """Bytes of what code generation makes of the plan."""
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

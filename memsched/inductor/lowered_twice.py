"""A rule that may raise the peak is judged by the plan: the graph is planned with its changes and without them.

    graph ──> a judged rule changes nothing ───────────────────────────────────────────> compiled
        └───> it would: stop ──> planned without ──> planned with ──> is that lower? ──> compiled
                                                                           └─ no: stop ──> without, compiled

What is fused, written in place and ordered decides what a change is worth, and is known after lowering only.  So the
compile starts over where a judged rule has something to change, which few graphs have, and lowers such a graph once
more, or twice where the change is taken back; nothing is generated before the last time.  What is compiled in the end
follows from the graph alone, so a cache keeps it under the key of the question.  `GraphReport.seconds` is of the plan
that is compiled, without those that were only looked at.

Claim: what is compiled is planned no higher than without the judged rules.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx
from torch._inductor import config

from memsched.inductor.compat import as_one_pass, passes_of
from memsched.inductor.failures import stock_goes_on
from memsched.inductor.options import BackendOptions
from memsched.inductor.passes import Judgment, RewritePass, Undecided
from memsched.inductor.publish import Sink
from memsched.inductor.stopping import StopCompile
from memsched.records.report import GraphKind, GraphReport

__all__ = ["is_below", "lowered_twice", "only_if"]

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
        peaks: list[int] = []

        def is_left_to_stock(report: GraphReport) -> bool:
            peaks.append(report.generated_peak)
            return bool(report.fallback)  # nothing to compare with, and told once

        with stock_goes_on("the choice of a rewrite", "planning a rewrite", strict=options.strict):
            with only_if(is_left_to_stock), _as(Judgment.WITHOUT):
                return compile_copy()
            with only_if(is_below(peaks[-1])), _as(Judgment.WITH):
                return compile_copy()
        with _as(Judgment.WITHOUT):
            return compile_copy()

    return compile_better


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
    return lambda report: not report.fallback and report.generated_peak < peak


@contextlib.contextmanager
def _as(judgment: Judgment) -> Iterator[None]:
    """Within the context every judged rule of Inductor's config stands at `judgment`."""
    passes = [one.at(judgment) if _is_judged(one) else one for one in passes_of(getattr(config, _PLACE))]
    with config.patch({_PLACE: as_one_pass(passes)}):
        yield


def _is_judged(one: Any) -> bool:
    return isinstance(one, RewritePass) and one.rule.is_judged

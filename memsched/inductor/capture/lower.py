"""The one harness in which graphs are lowered without being compiled: a model traced, each graph seen, nothing run.

    model(*batch)  ── Dynamo ──> gm ── autograd ──> forward, backward ──> `compile_graph(gm, inputs, **how)`
                                                          │
                                                          └──> the traced graph runs in place of the compiled one

A `Way` says how Inductor is to treat a graph: its config patches, its choices, and the patches of the cut that comes
before.  `lower` runs Inductor on one graph under a way, up to the stop that one of its passes raises (`StopAfter`), or
to where code would be compiled.  What is planned that way leaves no trace: its reports go to the way's own list.

The function that Dynamo traces is made anew for each call, so nothing that the user has compiled is forgotten or
compiled again.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any

import torch
from torch._dynamo.eval_frame import remove_from_cache
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.virtualized import V

from memsched.inductor.backend import partition_patches, planning_patches
from memsched.inductor.calls import Batch, Model, call_model, losses_of
from memsched.inductor.choices import PlannedChoices
from memsched.inductor.lowered_twice import lowered_twice
from memsched.inductor.observe import ObservingPass
from memsched.inductor.options import BackendOptions
from memsched.inductor.stopping import StopAfter, stopped
from memsched.records.report import GraphReport

__all__ = [
    "Way",
    "backward_of",
    "lower",
    "planned_way",
    "run_uncompiled",
    "stock_way",
    "traced_anew",
    "with_code_of_its_own",
]


# ---- ways


@dataclass(frozen=True)
class Way:
    """How the graphs of a step are to be treated.

    patches: of Inductor's configuration, for a graph; choices: Inductor's, if not its own.
    cut: of its configuration, where the step is cut into graphs.
    compile_graph: what lowers a graph, in place of `compile_fx_inner`.
    reports: what the way's passes have reported and nobody has taken yet.
    """

    name: str
    patches: Mapping[str, Any] = field(default_factory=dict)
    choices: Callable[[], Any] | None = None
    cut: Mapping[str, Any] = field(default_factory=dict)
    compile_graph: Callable[..., Any] = compile_fx_inner
    reports: list[GraphReport] = field(default_factory=list)

    def take_reports(self) -> list[GraphReport]:
        """The reports since the last call."""
        taken = list(self.reports)
        self.reports.clear()
        return taken


def stock_way(inductor: Mapping[str, Any] | None = None, *, measure_scratch: bool = True) -> Way:
    """Stock Inductor under a pass that looks and changes nothing; inductor: further config patches.

    measure_scratch: as in `memsched.inductor.options`.
    """
    given, reports = dict(inductor or {}), list[GraphReport]()
    passes = {"_post_fusion_custom_pass": ObservingPass(reports.append, measure_scratch=measure_scratch)}
    return Way("stock", {**given, **passes}, cut=given, reports=reports)


def planned_way(options: BackendOptions, inductor: Mapping[str, Any] | None = None) -> Way:
    """memsched, as its backend would compile; inductor: further config patches."""
    given, reports = dict(inductor or {}), list[GraphReport]()
    patches = {**given, **planning_patches(options, given, reports.append)}
    cut = {**given, **partition_patches(options, given)}
    compile_graph = lowered_twice(compile_fx_inner, options)
    return Way("memsched", patches, lambda: PlannedChoices(options), cut, compile_graph, reports)


def lower(
    way: Way,
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    how: Mapping[str, Any],
    *,
    stop_after_fusion: bool = True,
) -> list[GraphReport]:
    """Run Inductor on one graph, which it may change; the reports of the way's passes.

    how: the keyword arguments of `compile_fx_inner`.
    stop_after_fusion: end behind the pass after fusion, before any code is generated.
    """
    patches = {**way.patches, "fx_graph_cache": False}  # nothing is compiled, so nothing may be loaded
    if stop_after_fusion:
        patches["_post_fusion_custom_pass"] = StopAfter(patches["_post_fusion_custom_pass"])
    choices = contextlib.nullcontext() if way.choices is None else V.set_choices_handler(way.choices())
    with config.patch(patches), choices, stopped():
        way.compile_graph(gm, example_inputs, **how)
    return way.take_reports()


# ---- a model, without compiling it


def run_uncompiled(
    model: Model,
    batch: Batch,
    compile_graph: Callable[..., Any],
    way: Way | None = None,
) -> None:
    """One call of `model` and its backward, in which the traced graphs run and `compile_graph` only sees them.

    compile_graph(gm, example_inputs, **how): in place of `compile_fx_inner`; may change the graph, which is a copy.
    way: how the step is cut into forward and backward; by default as stock does.
    """
    backend = _Uncompiled(compile_graph, dict((way or Way("stock")).cut))
    traced = traced_anew(model)
    try:
        with functorch_config.patch(enable_autograd_cache=False):
            results = call_model(torch.compile(traced, backend=backend, dynamic=False), batch)
        backward_of(results)
    finally:
        backend.forget()
        remove_from_cache(traced.__func__)


class _Uncompiled:
    """The backend of `run_uncompiled`.  Dynamo keeps every backend as long as the process lives."""

    def __init__(self, compile_graph: Callable[..., Any], cut: dict[str, Any]) -> None:
        self._compile_graph: Callable[..., Any] | None = compile_graph
        self._cut = cut
        self._numbers: dict[int, int] = {}

    def __call__(self, gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        return compile_fx(gm, example_inputs, inner_compile=self._compile, config_patches=self._cut)

    def _compile(self, gm: torch.fx.GraphModule, example_inputs: Sequence[Any], **how: Any) -> Any:
        assert self._compile_graph is not None
        # Inductor counts graphs in the process; two plans of one model shall have the same names.
        how["graph_id"] = self._numbers.setdefault(how["graph_id"], len(self._numbers))
        # Inductor changes the graph that it is given.  Tensors are shared: copies made here would be fake ones.
        self._compile_graph(torch.fx.GraphModule(gm, copy.deepcopy(gm.graph)), example_inputs, **how)
        return make_boxed_func(gm.forward)

    def forget(self) -> None:
        """Let go of what was planned."""
        self._compile_graph, self._cut = None, {}


def backward_of(results: Any) -> None:
    """The backward of the loss in `results`; of all that requires a gradient, where none is called so."""
    losses = [loss.sum() for loss in losses_of(results)]
    if losses:
        torch.autograd.backward(losses)


def traced_anew(model: Callable[..., Any]) -> MethodType:
    """`model` behind a function that Dynamo has never seen: it keeps what it compiles with the code of a function.

    So nothing that was compiled before is used or dropped, and what is compiled now goes with the function.
    """
    return MethodType(with_code_of_its_own(_call), model)


def with_code_of_its_own(function: Any) -> FunctionType:
    """A copy of `function`, with code and globals of its own: Dynamo keeps what it compiles in both."""
    own = FunctionType(
        function.__code__.replace(), dict(function.__globals__), function.__name__, None, function.__closure__
    )
    own.__kwdefaults__ = function.__kwdefaults__
    return own


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self(*args, **kwargs)

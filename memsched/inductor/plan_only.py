"""Plan the graphs of a model without generating or compiling any code: seconds instead of minutes.

The model is traced and lowered as for a real compile.  Inductor's scheduler fuses and our passes order, then a stop is
raised out of the post-fusion pass; the traced graph itself runs in place of the compiled one, so that autograd goes on
to the backward graph.  The plans are those of a real compile: nothing after the stop feeds back into them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.virtualized import V

from memsched.core.report import GraphReport, reports
from memsched.inductor.backend import planning_patches
from memsched.inductor.choices import PlannedChoices
from memsched.inductor.compat import SchedulerPass
from memsched.inductor.observe import ObservingPass
from memsched.inductor.options import BackendOptions

__all__ = ["StopAfter", "StopCompile", "plan_only", "run_uncompiled", "stopped"]


class StopCompile(Exception):
    """Raised when all that is wanted of a compile is done."""


class StopAfter(SchedulerPass):  # type: ignore[misc]
    """Runs another pass, then stops the compile."""

    def __init__(self, inner: SchedulerPass) -> None:
        self.inner = inner

    def __call__(self, nodes: list[Any]) -> list[Any]:
        self.inner(nodes)
        raise StopCompile

    def uuid(self) -> str:
        return f"{self.inner.uuid()} and stop"


def plan_only(
    model: nn.Module | Callable[..., Any],
    batch: Sequence[Tensor],
    options: BackendOptions | None = None,
    *,
    stock: bool = False,
) -> list[GraphReport]:
    """The reports of every graph that one call `model(*batch)`, and the backward of what it returns, compiles.

    The model runs once, eagerly on the traced graphs; gradients of its parameters are set as by any backward.

    stock: observe what stock Inductor does instead (`ObservingPass`); both are judged by the same memory model.
    """
    already = len(reports())
    run_uncompiled(
        model, batch, functools.partial(_plan_graph, None if stock else options or BackendOptions(strict=True))
    )
    return reports()[already:]


def run_uncompiled(
    model: nn.Module | Callable[..., Any], batch: Sequence[Tensor], compile_graph: Callable[..., None]
) -> None:
    """One call `model(*batch)` and its backward, in which the traced graphs run and `compile_graph` only sees them.

    compile_graph(gm, example_inputs, is_backward=..., is_inference=...): is given a copy of each graph that Inductor
        would compile; it may change it.
    """

    def compiler(gm: torch.fx.GraphModule, example_inputs: Sequence[Any], **kind: bool) -> Any:
        # Inductor changes the graph that it is given.  Tensors are shared: copies made here would be fake ones.
        compile_graph(torch.fx.GraphModule(gm, copy.deepcopy(gm.graph)), example_inputs, **kind)
        return make_boxed_func(gm.forward)

    backend = aot_autograd(
        fw_compiler=compiler,
        bw_compiler=functools.partial(compiler, is_backward=True),
        inference_compiler=functools.partial(compiler, is_inference=True),
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
        keep_inference_input_mutations=True,
    )
    torch._dynamo.reset()
    results = torch.compile(model, backend=backend, dynamic=False)(*batch)
    tensors = (r for r in torch.utils._pytree.tree_leaves(results) if isinstance(r, Tensor) and r.requires_grad)
    losses = [tensor.sum() for tensor in tensors]
    if losses:
        torch.autograd.backward(losses)
    torch._dynamo.reset()


def _plan_graph(
    options: BackendOptions | None, gm: torch.fx.GraphModule, example_inputs: Sequence[Any], **kind: bool
) -> None:
    """Plan one graph, by stock without options, and stop."""
    patches: dict[str, Any] = {"_post_fusion_custom_pass": ObservingPass()}
    if options:
        patches = planning_patches(options)
    patches["_post_fusion_custom_pass"] = StopAfter(patches["_post_fusion_custom_pass"])
    patches["fx_graph_cache"] = False  # nothing is compiled, so nothing may be loaded
    choices = V.set_choices_handler(PlannedChoices(options)) if options else contextlib.nullcontext()
    with config.patch(patches), choices, stopped():
        compile_fx_inner(gm, example_inputs, **kind)


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """Within the context `StopCompile` ends the compile, in whatever Inductor wraps it."""
    try:
        yield
    except Exception as error:
        if not _is_stop(error):
            raise


def _is_stop(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, StopCompile):
            return True
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return False

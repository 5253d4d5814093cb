"""Plan the graphs of a model without generating or compiling any code: seconds instead of minutes.

The model is traced, cut into forward and backward, and lowered as for a real compile.  Inductor's scheduler fuses and
our passes order, then a stop is raised out of the post-fusion pass; the traced graph itself runs in place of the
compiled one, so that autograd goes on to the backward graph.  The plans are those of a real compile.  One thing feeds
back into them after the stop: the strides of what the forward saves, which Inductor chooses (channels last) and
autograd's compiler tells the backward's compiler; so the stop reports them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import make_boxed_func
from torch._guards import TracingContext
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.ir import IRNode
from torch._inductor.virtualized import V

from memsched.inductor.backend import partition_patches, planning_patches
from memsched.inductor.choices import PlannedChoices
from memsched.inductor.compat import SchedulerPass
from memsched.inductor.observe import ObservingPass
from memsched.inductor.options import BackendOptions
from memsched.records.report import GraphReport, reports

__all__ = ["StopAfter", "plan_only", "run_uncompiled", "stop_compile", "stopped"]


class StopCompile(Exception):
    """Raised by `stop_compile`."""


def stop_compile() -> NoReturn:
    """End the compile of a graph that has been lowered, when all that is wanted of it is done."""
    context = TracingContext.try_get()
    if context is not None and context.output_strides is not None:
        context.output_strides[:] = [_strides(output) for output in V.graph.graph_outputs]
    raise StopCompile


def _strides(output: Any) -> tuple[int, ...] | None:
    """The strides of an output in elements; None for one that is no tensor, or of a symbolic shape."""
    if not isinstance(output, IRNode) or not output.has_tensor_output():
        return None
    strides = output.get_stride()
    return tuple(map(int, strides)) if all(getattr(s, "is_number", True) for s in strides) else None


class StopAfter(SchedulerPass):  # type: ignore[misc]
    """Runs another pass, then stops the compile."""

    def __init__(self, inner: SchedulerPass) -> None:
        self.inner = inner

    def __call__(self, nodes: list[Any]) -> list[Any]:
        self.inner(nodes)
        stop_compile()

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
    planning = None if stock else options or BackendOptions(strict=True)
    run_uncompiled(model, batch, functools.partial(_plan_graph, planning), planning)
    return reports()[already:]


def run_uncompiled(
    model: nn.Module | Callable[..., Any],
    batch: Sequence[Tensor],
    compile_graph: Callable[..., None],
    options: BackendOptions | None = None,
) -> None:
    """One call `model(*batch)` and its backward, in which the traced graphs run and `compile_graph` only sees them.

    compile_graph(gm, example_inputs, **how): in place of `compile_fx_inner`; may change the graph, which is a copy.
    options: whether checkpoints are kept; None for stock's cut into forward and backward.
    """
    numbers: dict[int, int] = {}

    def compiler(gm: torch.fx.GraphModule, example_inputs: Sequence[Any], **how: Any) -> Any:
        # Inductor counts graphs in the process; two plans of one model shall have the same names.
        how["graph_id"] = numbers.setdefault(how["graph_id"], len(numbers))
        # Inductor changes the graph that it is given.  Tensors are shared: copies made here would be fake ones.
        compile_graph(torch.fx.GraphModule(gm, copy.deepcopy(gm.graph)), example_inputs, **how)
        return make_boxed_func(gm.forward)

    def backend(gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        patches = partition_patches(options) if options else {}
        return compile_fx(gm, example_inputs, inner_compile=compiler, config_patches=patches)

    torch._dynamo.reset()
    with functorch_config.patch(enable_autograd_cache=False):
        results = torch.compile(model, backend=backend, dynamic=False)(*batch)
    tensors = (r for r in torch.utils._pytree.tree_leaves(results) if isinstance(r, Tensor) and r.requires_grad)
    losses = [tensor.sum() for tensor in tensors]
    if losses:
        torch.autograd.backward(losses)
    torch._dynamo.reset()


def _plan_graph(
    options: BackendOptions | None, gm: torch.fx.GraphModule, example_inputs: Sequence[Any], **how: Any
) -> None:
    """Plan one graph, by stock without options, and stop."""
    patches: dict[str, Any] = {"_post_fusion_custom_pass": ObservingPass()}
    if options:
        patches = planning_patches(options)
    patches["_post_fusion_custom_pass"] = StopAfter(patches["_post_fusion_custom_pass"])
    patches["fx_graph_cache"] = False  # nothing is compiled, so nothing may be loaded
    choices = V.set_choices_handler(PlannedChoices(options)) if options else contextlib.nullcontext()
    with config.patch(patches), choices, stopped():
        compile_fx_inner(gm, example_inputs, **how)


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

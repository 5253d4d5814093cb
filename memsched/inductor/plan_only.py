"""Plan the graphs of a model without generating or compiling any code: seconds instead of minutes.

The model is traced and lowered as for a real compile.  Inductor's scheduler fuses and our passes order, then a stop is
raised out of the post-fusion pass; the traced graph itself runs in place of the compiled one, so that autograd goes on
to the backward graph.  The plans are those of a real compile: nothing after the stop feeds back into them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
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
from memsched.inductor.options import BackendOptions
from memsched.inductor.passes import PostFusionPass

__all__ = ["plan_only"]


class _Planned(Exception):
    """Raised when the plan of a graph is done."""


class _StoppingPass(PostFusionPass):
    def __call__(self, nodes: list[Any]) -> list[Any]:
        super().__call__(nodes)
        raise _Planned


def plan_only(
    model: nn.Module | Callable[..., Any], batch: Sequence[Tensor], options: BackendOptions | None = None
) -> list[GraphReport]:
    """The reports of every graph that one call `model(*batch)`, and the backward of what it returns, compiles.

    The model runs once, eagerly on the traced graphs; gradients of its parameters are set as by any backward.
    """
    options = options or BackendOptions(strict=True)
    already = len(reports())
    backend = aot_autograd(
        fw_compiler=_planner(options, is_backward=False),
        bw_compiler=_planner(options, is_backward=True),
        inference_compiler=_planner(options, is_backward=False, is_inference=True),
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    torch._dynamo.reset()
    result = torch.compile(model, backend=backend, dynamic=False)(*batch)
    if isinstance(result, Tensor) and result.requires_grad:
        result.sum().backward()
    torch._dynamo.reset()
    return reports()[already:]


def _planner(options: BackendOptions, *, is_backward: bool, is_inference: bool = False) -> Callable[..., Any]:
    def plan(gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        patches = planning_patches(options) | {
            "_post_fusion_custom_pass": _StoppingPass(options),
            "force_disable_caches": True,
        }
        with config.patch(patches), V.set_choices_handler(PlannedChoices(options)):
            try:
                compile_fx_inner(copy.deepcopy(gm), example_inputs, is_backward=is_backward, is_inference=is_inference)
            except Exception as error:
                if not _is_stop(error):
                    raise
        return make_boxed_func(gm.forward)

    return plan


def _is_stop(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _Planned):
            return True
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return False

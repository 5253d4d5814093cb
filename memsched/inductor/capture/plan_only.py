"""Plan the graphs of a model without generating or compiling any code: seconds instead of minutes.

The model is traced, cut into forward and backward, and lowered as for a real compile (`capture.lower`).  Inductor's
scheduler fuses and our passes order, then a stop is raised out of the post-fusion pass.  The plans are those
of a real compile.  They go to who asked, and leave no trace in `memsched.reports()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import GraphModule

from memsched.inductor.calls import Batch, Model
from memsched.inductor.capture.lower import lower, planned_way, run_uncompiled, stock_way
from memsched.inductor.options import BackendOptions
from memsched.records.report import GraphReport

__all__ = ["plan_only"]


def plan_only(
    model: Model,
    batch: Batch,
    options: BackendOptions | None = None,
    *,
    stock: bool = False,
) -> list[GraphReport]:
    """The reports of every graph that one call of `model` with `batch`, and the backward of its loss, compiles.

    The model runs once, eagerly on the traced graphs; gradients of its parameters are set as by any backward.

    stock: observe what stock Inductor does instead (`ObservingPass`); both are judged by the same memory model, of
        which `options` say whether scratch memory is measured.
    """
    options = options or BackendOptions(strict=True)
    way = stock_way(measure_scratch=options.measure_scratch) if stock else planned_way(options)
    reports: list[GraphReport] = []

    def plan(gm: GraphModule, example_inputs: Sequence[Any], **how: Any) -> None:
        reports.extend(lower(way, gm, example_inputs, how))

    run_uncompiled(model, batch, plan, way)
    return reports

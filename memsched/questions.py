"""What people ask about a model that they have not run: why does it peak, has the peak risen, what changed?

    memsched.explain(model, batch)                                 why the step peaks where it does, before it runs
    memsched explain train:step [--json] [--quick]                 the same from a terminal
    memsched explain graph.json                                    of a graph or a plan in a file, without torch
    memsched check train:step --baseline peaks.json [--update]     exit 1 when the peak of a graph rose
    memsched diff before.json after.json                           two baselines, explanations or plans

Everything is planned; nothing is compiled or run on a device, except to measure it.  torch is imported by the functions
that need it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memsched.records.explanation import Explanation

__all__ = ["explain", "explain_file", "explain_target"]


def explain(
    model: Any,
    *args: Any,
    train: bool = True,
    device: str = "cpu",
    optimizer: Any = None,
    experiments: bool = True,
    stock: bool = True,
    measure: bool = False,
    fullgraph: bool = False,
) -> Explanation:
    """Why `model(*args)`, with its backward when `train`, peaks where it does; bytes of the memory model.

    device: where the model and its batch are; a device that is not there is an error, never a guess.
    optimizer: its state is counted among what the caller holds.
    experiments: also plan half the batch and checkpointed blocks; stock: also plan what stock Inductor would do.
    fullgraph: a model that breaks into several graphs is an error.
    measure: also compile the model and run it twice, and put the allocator's bytes beside the plan.
    The model is planned, not compiled: it runs once or more on its traced graphs, and is left as it was.

    Raises:
        InputError: an unknown device, a model that does not compile, with `train` a model without a loss; one line.
    """
    from memsched.inductor.questions.plan_step import plan_step
    from memsched.render.text.explanation import explain_step

    return explain_step(
        plan_step(
            model,
            args,
            train=train,
            device=device,
            optimizer=optimizer,
            experiments=experiments,
            stock=stock,
            measure=measure,
            fullgraph=fullgraph,
        )
    )


def explain_target(
    name: str,
    *,
    train: bool = True,
    device: str = "cpu",
    experiments: bool = True,
    stock: bool = True,
    measure: bool = False,
    fullgraph: bool = False,
) -> Explanation:
    """`explain` of what the function `module:function` builds; raises InputError."""
    from memsched.inductor.questions.target import resolve_target

    target = resolve_target(name)
    return explain(
        target.model,
        *target.batch,
        train=train,
        device=device,
        optimizer=target.optimizer,
        experiments=experiments,
        stock=stock,
        measure=measure,
        fullgraph=fullgraph,
    )


def explain_file(path: str) -> Explanation:
    """Explain the graph in a file: `memsched-graph/1`, Inductor's `reorder_for_peak_memory_debug` JSON, or a plan.

    A graph is ordered first; the answer has no step, no experiments and no plan of stock's fusions.  Needs no torch.

    Raises:
        FormatError: one line with the file, the field and the fault.
    """
    from memsched.core.peak import peak_bytes
    from memsched.records.report import GraphKind, GraphReport
    from memsched.records.step import PlannedStep
    from memsched.render.planned_file import read_planned
    from memsched.render.text.explanation import explain_step
    from memsched.search.orders.inductor import stock_orders

    found = read_planned(path)
    graph, schedule = found.graph, found.schedule
    report = GraphReport.planned(
        graph,
        schedule,
        name=graph.name or os.path.basename(path),
        kind=GraphKind.GRAPH,
        stock_peak=min(peak_bytes(graph, order) for order in stock_orders(graph).values()),
        kernels=len(graph.ops),
        fusions_refused=len(found.refusals),
        refusals=found.refusals,
        origins=found.origins,
    )
    return explain_step(PlannedStep((report,), device=graph.device, step_known=False))

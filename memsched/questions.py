"""What people ask about a model that they have not run: why does it peak, has the peak risen, what changed?

    memsched.explain(model, batch)                                 why the step peaks where it does, before it runs
    memsched.summary(model, batch)                                 the same in seconds: no experiments; on one screen
    memsched explain train:step [--json] [--quick]                 the same from a terminal
    memsched explain graph.json                                    of a graph or a plan in a file, without torch
    memsched check train:step --baseline peaks.json [--update]     exit 1 when the peak of a graph rose
    memsched diff before.json after.json                           two baselines, explanations or plans

Everything is planned, on fake tensors; nothing is compiled or run on a device, except to measure it.  torch is imported
by the functions that need it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from memsched.records.question import StepQuestion

if TYPE_CHECKING:
    from memsched.render.shown import ShownExplanation

__all__ = ["explain", "explain_file", "explain_target", "summary"]

Progress: TypeAlias = "Callable[[str], None]"
Arguments: TypeAlias = "Mapping[str, Any]"

NOTHING: Arguments = MappingProxyType({})


def _ignore(_text: str) -> None:
    """Nobody wants to be told."""


def explain(
    model: Any,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    train: bool = True,
    device: str = "cpu",
    optimizer: Any = None,
    experiments: bool = True,
    stock: bool = True,
    measure: bool = False,
    fullgraph: bool = False,
    progress: Progress = _ignore,
) -> ShownExplanation:
    """Why `model(*args, **kwargs)`, with its backward when `train`, peaks where it does; bytes of the memory model.

    A single dictionary is spread over the keywords that the model takes, as data loaders hand it over.
    loss_fn: as in `memsched.train_step`; without it the model returns its loss, or an object with a `loss`.
    device: where the model and its batch are; a device that is not there is an error, never a guess.
    optimizer: its state is counted among what the caller holds.
    experiments: also plan half the batch, checkpointed blocks, and the next rungs of `fit`.
    stock: also plan what stock Inductor would do.
    fullgraph: a model that breaks into several graphs is an error.
    measure: also compile the model and run it twice, and put the allocator's bytes beside the plan.
    progress: told what is being done, a line at a time.
    The model is planned on fake tensors, at any size, and is left as it was; only a model that needs values, or that is
    measured, runs.

    Raises:
        InputError: an unknown device, a model that does not compile, with `train` a model without a loss; one line.
    """
    from memsched.inductor.calls import WithLoss, batch_of
    from memsched.inductor.questions.plan_step import plan_step
    from memsched.render.shown import shown
    from memsched.render.text.explanation import explain_step

    question = StepQuestion(train, device, experiments, stock, measure, fullgraph)
    model = model if loss_fn is None else WithLoss(model, loss_fn)
    batch = batch_of(model, args, kwargs)
    return shown(explain_step(plan_step(model, batch, question, optimizers=optimizer, progress=progress)))


def summary(model: Any, *args: Any, **question: Any) -> ShownExplanation:
    """Print on one screen what a step needs and where its bytes are, and return it; as `explain`, without experiments.

    question: the keywords of `explain`.
    """
    found = explain(model, *args, **({"experiments": False} | question))
    print(found.answer or found)
    return found


def explain_target(
    name: str, question: StepQuestion, progress: Progress = _ignore, arguments: Arguments = NOTHING
) -> ShownExplanation:
    """`explain` of what the function `module:function` builds; it is built on fake tensors, unless it is measured.

    A CUDA device that is not there is planned for in a process of its own, as `memsched plan` does.
    arguments: given to the function.

    Raises:
        InputError: as `explain`; a function that cannot be called, or returns something else.
    """
    from memsched.inductor.questions.built import plan_target_step
    from memsched.render.shown import shown
    from memsched.render.text.explanation import explain_step

    return shown(explain_step(plan_target_step(name, question, arguments, progress)))


def explain_file(path: str) -> ShownExplanation:
    """Explain the graph in a file: `memsched-graph/1`, Inductor's `reorder_for_peak_memory_debug` JSON, or a plan.

    A graph is ordered first; the answer has no step, no experiments and no plan of stock's fusions.  Needs no torch.

    Raises:
        FormatError: one line with the file, the field and the fault.
    """
    from memsched.core.peak import peak_bytes
    from memsched.records.report import GraphKind, GraphReport
    from memsched.records.step import PlannedStep
    from memsched.render.planned_file import read_planned
    from memsched.render.shown import shown
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
    return shown(explain_step(PlannedStep((report,), device=graph.device, step_known=False)))

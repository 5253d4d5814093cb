"""What people ask about a model that they have not run: why does it peak, has the peak risen, what changed?

    memsched.explain(model, batch)                                 why the step peaks where it does, before it runs
    memsched explain train:step [--json] [--quick]                 the same from a terminal
    memsched check train:step --baseline peaks.json [--update]     exit 1 when the peak of a graph rose
    memsched diff before.json after.json                           two baselines, explanations or plans

Everything is planned, nothing is compiled or run on a device.  torch is imported by the functions that need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memsched.report.explanation import Explanation

__all__ = ["explain", "explain_target"]


def explain(
    model: Any,
    *args: Any,
    train: bool = True,
    device: str = "cpu",
    optimizer: Any = None,
    experiments: bool = True,
    stock: bool = True,
) -> Explanation:
    """Why `model(*args)`, with its backward when `train`, peaks where it does; bytes of the memory model.

    device: where the model and its batch are; a device that is not there is an error, never a guess.
    optimizer: its state is counted among what the caller holds.
    experiments: also plan half the batch and checkpointed blocks; stock: also plan what stock Inductor would do.
    The model is planned, not compiled: it runs once or more on its traced graphs, and is left as it was.

    Raises:
        InputError: an unknown device, a model that does not compile, with `train` a model without a loss; one line.
    """
    from memsched.inductor.explain import plan_step
    from memsched.report.explanation import explain_step

    return explain_step(
        plan_step(
            model,
            args,
            train=train,
            device=device,
            optimizer=optimizer,
            experiments=experiments,
            stock=stock,
        )
    )


def explain_target(
    name: str, *, train: bool = True, device: str = "cpu", experiments: bool = True, stock: bool = True
) -> Explanation:
    """`explain` of what the function `module:function` builds; raises InputError."""
    from memsched.inductor.target import resolve_target

    target = resolve_target(name)
    return explain(
        target.model,
        *target.batch,
        train=train,
        device=device,
        optimizer=target.optimizer,
        experiments=experiments,
        stock=stock,
    )

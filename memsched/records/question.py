"""What is asked about one step of a model.  Plain data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StepQuestion"]


@dataclass(frozen=True, slots=True)
class StepQuestion:
    """What to plan of a step, and beside it.

    train: the backward, too.  device: where the step runs.
    experiments: also half the batch and checkpointed blocks; stock: also what stock Inductor would do.
    measure: also compile and run the step, and measure its bytes.
    fullgraph: a model that breaks into several graphs is an error.
    portable: bytes that are the same on every processor, for figures that are kept: what libraries allocate on CPU is
        looked up and not measured.
    """

    train: bool = True
    device: str = "cpu"
    experiments: bool = True
    stock: bool = True
    measure: bool = False
    fullgraph: bool = False
    portable: bool = False

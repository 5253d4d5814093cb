"""What was planned about one step of a model, before anyone puts it into words.  Plain data.

PlannedStep
  reports      memsched's plan of every graph of the step, in the order in which they ran
  stock        what stock Inductor does with the same graphs, in the terms of the same memory model
  held         bytes that the caller holds while the graphs run: no plan can free them
  experiments  the same plans after one change: a smaller batch, a checkpointed block
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from memsched.core.report import GraphReport

__all__ = ["Experiment", "HeldBytes", "PlannedStep"]


@dataclass(frozen=True, slots=True)
class HeldBytes:
    """What the caller holds during the step, each storage once; bytes.

    gradients: those that exist before the step, which the backward adds to.
    optimizer_state: None when no optimiser was given; it is what the optimiser holds now, 0 before its first step.
    batch: the arguments of the model.
    """

    parameters: int = 0
    buffers: int = 0
    gradients: int = 0
    optimizer_state: int | None = None
    batch: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.buffers + self.gradients + (self.optimizer_state or 0) + self.batch


@dataclass(frozen=True, slots=True)
class Experiment:
    """The modelled peak of every graph, by name, after `change`; without peaks, `failure` says why there are none."""

    change: str
    peaks: Mapping[str, int] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """The plans of one step, and what is held beside them."""

    reports: tuple[GraphReport, ...]
    stock: tuple[GraphReport, ...] = ()
    held: HeldBytes = HeldBytes()
    experiments: tuple[Experiment, ...] = ()
    train: bool = True
    device: str = "cpu"

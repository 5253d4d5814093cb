"""What was planned about one step of a model, before anyone puts it into words.  Plain data.

PlannedStep
  reports      memsched's plan of every graph of the step, in the order in which they ran
  stock        what stock Inductor does with the same graphs, in the terms of the same memory model
  held         bytes that the caller holds while the graphs run: no plan can free them
  step_known   whether this is all of a step, and `held` is known: not for a graph out of a file
  experiments  the same plans after one change: a smaller batch, a checkpointed block, a lever pulled
  measured     what the allocator held while the graphs ran, by the name of the graph, if they ran
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from memsched.records.report import GraphReport

__all__ = ["TRAIN_STEP", "Experiment", "HeldBytes", "MeasuredCurve", "OptimizerStep", "PlannedStep"]

TRAIN_STEP = "train_step"
"""The way to make a step in which forward, backward and update are one graph, beside "stock" and "memsched"."""


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """What an optimizer needs beside the parameters; bytes.

    state: what it holds after its first step.
    gradients: of all parameters that it updates, which are alive while it makes a step.
    temporaries: the most that its step allocates at once beyond those.
    """

    state: int
    gradients: int
    temporaries: int

    @property
    def transients(self) -> int:
        """What its step needs above parameters and state."""
        return self.gradients + self.temporaries


@dataclass(frozen=True, slots=True)
class HeldBytes:
    """What the caller holds during the step, each storage once; bytes.

    gradients: those that exist before the step, which the backward adds to.
    optimizer_state: after the first step; None when no optimizer was given, or its state cannot be found out.
    batch: the arguments of the model.
    update: what the optimizer's own step needs, after the graphs; None when that cannot be found out.
    """

    parameters: int = 0
    buffers: int = 0
    gradients: int = 0
    optimizer_state: int | None = None
    batch: int = 0
    update: OptimizerStep | None = None

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
class MeasuredCurve:
    """Bytes that the allocator held while the chosen order ran.

    places: where on the axis of steps each sample belongs, ascending; 3.5 is the middle of step 3.
    levels: bytes, one for each place, counted so that the curve begins at the level of the plan.
    source: how it was measured and placed, for people.
    """

    places: tuple[float, ...]
    levels: tuple[int, ...]
    source: str = ""

    @property
    def peak(self) -> int:
        """The most that was measured; bytes."""
        return max(self.levels, default=0)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """The plans of one step, and what is held beside them.

    note: what the plans take for granted, in one line.
    """

    reports: tuple[GraphReport, ...]
    stock: tuple[GraphReport, ...] = ()
    held: HeldBytes = HeldBytes()
    experiments: tuple[Experiment, ...] = ()
    measured: Mapping[str, MeasuredCurve] = field(default_factory=dict)
    train: bool = True
    device: str = "cpu"
    step_known: bool = True
    note: str = ""

"""A step that was planned and not run, as plain data that needs no torch to be read.

StepPlan
  graphs   PlannedGraph: report (as from `memsched.reports()`), graphs before and after fusion, the wrapper's source,
           and the bytes of the wrapper's replay
  held     what the caller holds while the graphs run
StepFacts  what is known of it before any plan
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memsched.core.graph import Graph
from memsched.levers.step_moments import StepMoment
from memsched.records.report import GraphKind, GraphReport
from memsched.records.step import HeldBytes

__all__ = ["PlannedGraph", "StepFacts", "StepPlan"]


@dataclass(frozen=True)
class PlannedGraph:
    """One graph of the step.

    report: of memsched's plan, or of what stock does; `report.graph` is the graph after fusion.
    prefusion: the scheduler's nodes before fusion.
    wrapper: the generated Python source that allocates, calls the kernels and frees.
    replayed: the most bytes that the wrapper has live at once, above its inputs, in blocks of 512 bytes.
    curve, lines: the live bytes above the inputs after each allocation and each run of frees, and the line of the
        wrapper that each belongs to.
    entry: bytes of its inputs; retained: what it leaves, less the inputs that it frees; may be negative.
    freed, results: inputs that are freed, and results that are live, when it peaks; bytes.
    """

    report: GraphReport
    prefusion: Graph | None = field(default=None, repr=False)
    wrapper: str = field(default="", repr=False)
    replayed: int = 0
    curve: tuple[int, ...] = field(default=(), repr=False)
    lines: tuple[int, ...] = field(default=(), repr=False)
    entry: int = 0
    retained: int = 0
    freed: int = 0
    results: int = 0

    @property
    def postfusion(self) -> Graph | None:
        """The scheduler's nodes after fusion, in the order in which fusion left them."""
        return self.report.graph


@dataclass(frozen=True)
class StepPlan:
    """A step, forward and backward, planned for `device`.

    way: "memsched"; "stock" for what stock Inductor does; "train_step" for that of `memsched.train_step`, one graph.
    seconds: of tracing and of all plans that were made at the same time.
    moments: of a train step, in the model of memory; refusal: why there is none, and no graph either.
    note: what the plan takes for granted, for people.
    """

    way: str
    device: str
    graphs: tuple[PlannedGraph, ...]
    held: HeldBytes
    torch: str
    seconds: float
    moments: tuple[StepMoment, ...] = ()
    refusal: str = ""
    note: str = ""

    @property
    def step_peak(self) -> int:
        """The most bytes that the replayed wrappers have live at once above what the caller holds before the step.

        The backward graphs run after all forward graphs, in reverse, on what is left by those before them.
        """
        backward = [graph for graph in self.graphs if graph.report.kind is GraphKind.BACKWARD]
        forward = [graph for graph in self.graphs if graph.report.kind is not GraphKind.BACKWARD]
        live = peak = 0
        for graph in [*forward, *reversed(backward)]:
            peak = max(peak, live + graph.replayed)
            live += graph.retained
        return peak

    @property
    def reports(self) -> list[GraphReport]:
        """One report per graph, in the order in which they are compiled."""
        return [graph.report for graph in self.graphs]

    def to_json(self) -> dict[str, Any]:
        """The figures, without graphs and sources."""
        plain = {key: value for key, value in vars(self).items() if key not in ("graphs", "held", "moments")}
        return plain | {"graphs": [report.to_json() for report in self.reports]}


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What the caller holds, whether there are optimizers, and how often the model repeats its blocks, if it does."""

    held: HeldBytes
    has_optimizer: bool
    depth: int

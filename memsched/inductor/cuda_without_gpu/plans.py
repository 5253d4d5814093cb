"""What a worker hands back: one step planned for CUDA, as plain data that needs no torch to be read.

CudaPlan
  graphs   CudaGraph: report (as from `memsched.reports()`), graphs before and after fusion, the wrapper's source,
           and the bytes of the wrapper's replay
  held     what the caller holds while the graphs run
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memsched.core.explanation import HeldBytes
from memsched.core.graph import Graph
from memsched.core.report import GraphReport

__all__ = ["CudaGraph", "CudaPlan"]


@dataclass(frozen=True)
class CudaGraph:
    """One graph of the step.

    report: of memsched's plan, or of what stock does; `report.graph` is the graph after fusion.
    prefusion: the scheduler's nodes before fusion.
    wrapper: the generated Python source that allocates, calls the kernels and frees.
    replayed: the most bytes that the wrapper has live at once, above its inputs, in blocks of 512 bytes.
    entry: bytes of its inputs; retained: what it leaves, less the inputs that it frees; may be negative.
    """

    report: GraphReport
    prefusion: Graph | None = field(default=None, repr=False)
    wrapper: str = field(default="", repr=False)
    replayed: int = 0
    entry: int = 0
    retained: int = 0

    @property
    def postfusion(self) -> Graph | None:
        """The scheduler's nodes after fusion, in the order in which fusion left them."""
        return self.report.graph


@dataclass(frozen=True)
class CudaPlan:
    """A step, forward and backward, planned for CUDA; way: "memsched", or "stock" for what stock Inductor does.

    seconds: of tracing and of all plans that were made at the same time.
    """

    way: str
    graphs: tuple[CudaGraph, ...]
    held: HeldBytes
    gpu: str
    torch: str
    seconds: float

    @property
    def reports(self) -> list[GraphReport]:
        """One report per graph, in the order in which they are compiled."""
        return [graph.report for graph in self.graphs]

    def to_json(self) -> dict[str, Any]:
        """The figures, without graphs and sources."""
        plain = {key: value for key, value in vars(self).items() if key not in ("graphs", "held")}
        return plain | {"graphs": [report.to_json() for report in self.reports]}

"""A scheduler pass that keeps the graph of the nodes that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memsched.core.graph import Graph
from memsched.inductor.compat import SchedulerPass
from memsched.inductor.extract import extract_graph
from memsched.inductor.session import graph_kind

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["CapturePass"]


class CapturePass(SchedulerPass):  # type: ignore[misc]
    """Before fusion: `found` holds (forward, backward or inference; graph) in the order in which they are compiled."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Graph]] = []

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        if nodes:
            kind = graph_kind()
            self.found.append((kind, extract_graph(nodes, kind, "prefusion")))
        return nodes

    def uuid(self) -> str:
        return "memsched's benchmark captures"

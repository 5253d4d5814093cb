"""What is asked of the graph that Inductor is compiling (`V.graph`), and of its scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch._inductor import memory
from torch._inductor.graph import SubgraphLowering
from torch._inductor.scheduler import NopKernelSchedulerNode
from torch._inductor.virtualized import V
from torch.utils._ordered_set import OrderedSet

from memsched.inductor.overlap import with_overlap
from memsched.records.report import GraphKind

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["GRAPH_KIND", "graph_kind", "graph_name", "num_kernels", "num_streams", "stock_reorder"]


GRAPH_KIND = "memsched_kind"
"""Where the `GraphKind` of a module that memsched itself made is noted, in its `meta`."""


def graph_kind() -> GraphKind:
    """What the graph that Inductor is compiling is: forward, backward, inference, or a whole training step."""
    if isinstance(V.graph, SubgraphLowering):
        return GraphKind.SUBGRAPH
    noted = V.graph.module.meta.get(GRAPH_KIND)
    if isinstance(noted, GraphKind):
        return noted
    if V.graph.is_inference:
        return GraphKind.INFERENCE
    return GraphKind.BACKWARD if V.graph.is_backward else GraphKind.FORWARD


def graph_name() -> str:
    """The name of the graph that Inductor is compiling, under which everything reports it: its kind and its number."""
    if isinstance(V.graph, SubgraphLowering):
        return f"{GraphKind.SUBGRAPH} {V.graph.name}"
    return f"{graph_kind()} {getattr(V.graph, 'graph_id', None) or 0}"


def num_streams() -> int:
    """On how many streams of a device the ops of the graph run (torch 2.13 and later; one before)."""
    return len(set(getattr(V.graph.scheduler, "node_to_stream", {}).values())) or 1


def num_kernels(nodes: Sequence[BaseSchedulerNode]) -> int:
    """How many of the nodes launch something."""
    return sum(not isinstance(node, NopKernelSchedulerNode) for node in nodes)


def stock_reorder(nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
    """What Inductor would have done here: its own peak-memory reorder, which our pass switches off, and its overlap."""
    scheduler = V.graph.scheduler
    inputs = OrderedSet(V.graph.graph_inputs.keys())
    outputs = OrderedSet(V.graph.get_output_names())
    reordered: list[BaseSchedulerNode] = memory.reorder_for_peak_memory(
        nodes, scheduler.name_to_buf, scheduler.name_to_fused_node, inputs, outputs
    )
    return with_overlap(reordered)

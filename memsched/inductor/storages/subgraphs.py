"""What runs inside of one op: subgraphs, whose buffers the outer graph does not see.

A chunk of a loss, a region that is compiled once and called often, is a graph of its own that one op calls.  The outer
scheduler knows their inputs and results.  What is alive inside while they run is scratch memory of that op:

    outer:   h, w ──> invoke_subgraph ──> dh, dw            inner: logits, their softmax, its gradient
                      └ workspace: the inner peak, less the results

Inductor orders a subgraph only when it writes the code of the op that calls it, behind our passes.  So each is lowered
once more beforehand, under the same passes, and only asked for its peak (`GraphLowering.codegen_subgraph`,
torch/_inductor/graph.py).  Branches of `torch.cond` and bodies of loops are not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch._inductor import config
from torch._inductor.virtualized import V

from memsched.core.peak import peak_bytes
from memsched.records.report import GraphReport

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["inner_bytes"]

_PASSES = ("_pre_fusion_custom_pass", "_post_fusion_custom_pass")
_LOWERED_WITH = ("wrapper_code", "device_ops", "cpp_wrapper", "device_types", "device_idxs", "device_type")
"""What a subgraph takes from its parent before it is scheduled."""


def inner_bytes(nodes: Sequence[BaseSchedulerNode]) -> dict[int, int]:
    """For each of the nodes that call subgraphs, what is alive inside beyond inputs and results; bytes."""
    peaks: dict[int, int] = {}
    found = {}
    for op, node in enumerate(nodes):
        subgraphs = _subgraphs_of(node)
        for subgraph in subgraphs:
            if id(subgraph) not in peaks:
                peaks[id(subgraph)] = _inner_peak(subgraph)
        if subgraphs:
            found[op] = max(peaks[id(subgraph)] for subgraph in subgraphs)
    return found


def _subgraphs_of(node: BaseSchedulerNode) -> list[Any]:
    called = node.node
    # Branches and loop bodies read buffers of the outer graph by name: lowered twice, they would name them twice.
    if type(called).__name__ != "InvokeSubgraph" or getattr(called.subgraph, "graph", None) is None:
        return []
    return [called.subgraph]


def _inner_peak(subgraph: Any) -> int:
    """What a subgraph that has been lowered needs beyond its inputs and its results; 0 where no pass reports."""
    parent, reports = V.graph, list[GraphReport]()
    inputs = list(subgraph.graph.example_inputs)
    twin = parent.make_subgraph(subgraph.graph_module, inputs, f"{subgraph.name}_planned")
    passes = {name: _reporting_to(getattr(config, name), reports) for name in _PASSES}
    with V.set_graph_handler(twin), config.patch(passes):
        twin.run(*inputs)
        for name in _LOWERED_WITH:
            setattr(twin, name, getattr(parent, name))
        twin._update_scheduler()
    return _above_the_outer_graph(reports[-1]) if reports else 0


def _above_the_outer_graph(report: GraphReport) -> int:
    """What the plan of a subgraph needs beyond its inputs, which the outer graph holds, and its results."""
    if report.graph is None or report.schedule is None:
        return 0
    own = tuple(buffer for buffer in report.graph.buffers if buffer.producer is not None)
    inside = replace(report.graph, buffers=own, order_edges=report.graph.precedences)
    results = sum(buffer.size for buffer in own if buffer.kept)
    return max(0, peak_bytes(inside, report.schedule.order) - results)


def _reporting_to(planning: Any, reports: list[GraphReport]) -> Any:
    """The same pass with another sink; of a pass that runs others, the one that plans."""
    planning = getattr(planning, "inner", None) or planning
    planning = getattr(planning, "planning", None) or planning
    if planning is not None and hasattr(planning, "sink"):
        planning = copy.copy(planning)
        planning.sink = reports.append
    return planning

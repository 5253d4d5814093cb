"""What runs inside of one op: subgraphs, whose buffers the outer graph does not see.

A chunk of a loss, a region that is compiled once and called often, is a graph of its own that one op calls.  The outer
scheduler knows their inputs and results.  What is alive inside while they run is scratch memory of that op:

    outer:   h, w ──> invoke_subgraph ──> dh, dw            inner: logits, their softmax, its gradient
                      └ workspace: the inner peak, less the results, and less the inputs that die inside

Inductor orders a subgraph only when it writes the code of the op that calls it, behind our passes.  So each is lowered
once more beforehand, under the same passes, and only asked for its peak (`GraphLowering.codegen_subgraph`,
torch/_inductor/graph.py).  Branches of `torch.cond` and bodies of loops are not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch._inductor import config
from torch._inductor.virtualized import V

from memsched.core.graph import Buffer, Graph
from memsched.core.peak import peak_bytes
from memsched.records.report import GraphReport
from memsched.storage.pieces import Piece

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["inner_bytes"]

_PASSES = ("_pre_fusion_custom_pass", "_post_fusion_custom_pass")
_LOWERED_WITH = ("wrapper_code", "device_ops", "cpp_wrapper", "device_types", "device_idxs", "device_type")
"""What a subgraph takes from its parent before it is scheduled."""


def inner_bytes(estimate: Graph, nodes: Sequence[BaseSchedulerNode], pieces: Mapping[str, Piece]) -> dict[int, int]:
    """For each of the nodes that call subgraphs, what is alive inside beyond inputs and results; bytes.

    estimate: the outer graph, op i being nodes[i].
    pieces: its buffers, by name, without those that are views of others.
    """
    planned: dict[int, _Inner] = {}
    found = {}
    for op, node in enumerate(nodes):
        for subgraph in _subgraphs_of(node):
            if id(subgraph) not in planned:
                planned[id(subgraph)] = _inner(subgraph)
            names = [read.get_name() for read in node.node.inputs]
            # What is given twice lives until both are gone.
            once = [pieces.get(name) if names.count(name) == 1 else None for name in names]
            freed = [piece.size if piece and _dies_in(op, piece, estimate) else 0 for piece in once]
            found[op] = _beyond(planned[id(subgraph)], freed)
    return found


@dataclass(frozen=True)
class _Inner:
    """report: the plan of a subgraph, if there is one.

    readers: for each of its inputs, in the order in which they are given, the ops that read it; empty if not known.
    """

    report: GraphReport | None
    readers: tuple[tuple[int, ...], ...] = ()


def _dies_in(op: int, piece: Piece, estimate: Graph) -> bool:
    """Whether an op is the last reader of a buffer in every order: the code gives it up before the call."""
    others = piece.readers - {op}
    return op in piece.readers and not piece.kept and all(estimate.ancestors[op] >> one & 1 for one in others)


def _subgraphs_of(node: BaseSchedulerNode) -> list[Any]:
    called = node.node
    # Branches and loop bodies read buffers of the outer graph by name: lowered twice, they would name them twice.
    if type(called).__name__ != "InvokeSubgraph" or getattr(called.subgraph, "graph", None) is None:
        return []
    return [called.subgraph]


def _inner(subgraph: Any) -> _Inner:
    """The plan of a subgraph that has been lowered."""
    parent, reports = V.graph, list[GraphReport]()
    inputs = list(subgraph.graph.example_inputs)
    twin = parent.make_subgraph(subgraph.graph_module, inputs, f"{subgraph.name}_planned")
    passes = {name: _reporting_to(getattr(config, name), reports) for name in _PASSES}
    with V.set_graph_handler(twin), config.patch(passes):
        twin.run(*inputs)
        for name in _LOWERED_WITH:
            setattr(twin, name, getattr(parent, name))
        twin._update_scheduler()
    report = reports[-1] if reports else None
    if report is None or report.schedule is None or len(twin.scheduler.nodes) != len(report.schedule.order):
        return _Inner(report)
    reads = [
        (op, {read.name for read in node.read_writes.reads})
        for op, node in zip(report.schedule.order, twin.scheduler.nodes, strict=True)
    ]
    readers = tuple(tuple(sorted(op for op, names in reads if name in names)) for name in twin.graph_inputs)
    return _Inner(report, readers)


def _beyond(inner: _Inner, freed: Sequence[int]) -> int:
    """What the plan of a subgraph needs beyond its inputs and results, which the outer graph holds; 0 without a plan.

    freed: for each input, its bytes if it dies inside.
    """
    report = inner.report
    if report is None or report.graph is None or report.schedule is None:
        return 0
    own = [buffer for buffer in report.graph.buffers if buffer.producer is not None]
    given = [
        Buffer(f"input {at}", size, None, readers)
        for at, (size, readers) in enumerate(zip(freed, inner.readers, strict=False))
        if size
    ]
    inside = replace(report.graph, buffers=(*own, *given), order_edges=report.graph.precedences)
    held = sum(buffer.size for buffer in own if buffer.kept) + sum(buffer.size for buffer in given)
    return max(0, peak_bytes(inside, report.schedule.order) - held)


def _reporting_to(planning: Any, reports: list[GraphReport]) -> Any:
    """The same pass with another sink; of a pass that runs others, the one that plans."""
    planning = getattr(planning, "inner", None) or planning
    planning = getattr(planning, "planning", None) or planning
    if planning is not None and hasattr(planning, "sink"):
        planning = copy.copy(planning)
        planning.sink = reports.append
    return planning

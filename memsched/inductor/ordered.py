"""The fused nodes in an order: extracted, searched under the memory model, judged, with what their code will need.

nodes ──> Inductor's account of them ──> model ──> order ──> groups of C++ kernels cut where they would free late
                                           └─────> what stock's own order of these nodes needs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Options
from memsched.inductor.extract import extract_graph
from memsched.inductor.host import num_kernels, stock_reorder
from memsched.inductor.storages.build import model_of
from memsched.inductor.storages.emissions import emissions
from memsched.search.orders.inductor import priority_order
from memsched.storage.kernel_groups import cuts, grouped_peak
from memsched.storage.order import ModelledOrder, order_under

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["OrderedNodes", "order_nodes"]


@dataclass(frozen=True, slots=True)
class OrderedNodes:
    """Nodes with the order found for them; bytes.

    nodes: op i of `found.graph` is nodes[i].
    emitted_peak: of the generated code, with its groups of C++ kernels ended before the ops `cut`.
    stock_peak: of the code that stock would generate for these nodes: in its own order, with its own groups.
    """

    nodes: list[BaseSchedulerNode]
    found: ModelledOrder
    emitted_peak: int
    cut: list[int]
    stock_peak: int

    def is_as_good_as(self, other: OrderedNodes, free: float) -> bool:
        """Whether it needs no more bytes than `other`, then no more kernels; below `free` bytes only kernels count."""
        mine, theirs = (max(one.emitted_peak, free) for one in (self, other))
        return (mine, num_kernels(self.nodes)) <= (theirs, num_kernels(other.nodes))

    def in_order(self) -> list[BaseSchedulerNode]:
        """The nodes as they are to run."""
        return [self.nodes[op] for op in self.found.schedule.order]


def order_nodes(
    nodes: list[BaseSchedulerNode],
    name: str,
    options: Options,
    given: Callable[[Graph, Sequence[BaseSchedulerNode]], tuple[int, ...]] | None = None,
) -> OrderedNodes:
    """The best order found of `nodes`, which the scheduler of `V.graph` holds; never above stock's own.

    given: an order to begin with, of the graph that it is called with.

    Raises:
        ExtractionError: the nodes do not mean what memsched believes.
        AssertionError: the order found needs more than one of Inductor's; this is memsched's fault.
    """
    graph = extract_graph(nodes, name, "postfusion")
    # Fusion may have permuted nodes with effects against program order: start from an order that restores it.
    legal = priority_order(graph, range(len(nodes)))
    if legal != tuple(range(len(nodes))):
        nodes = [nodes[op] for op in legal]
        graph = extract_graph(nodes, name, "postfusion")
    model = model_of(graph, nodes)
    place = {node: at for at, node in enumerate(stock_reorder(nodes))}
    stock = priority_order(graph, [place[node] for node in nodes])
    found = order_under(model, options, [stock, *([given(graph, nodes)] if given else [])])
    order = found.schedule.order
    peak = max(found.schedule.peak, peak_bytes(found.graph, order))
    if peak > found.orders_peak:
        raise AssertionError(f"{name}: peak {peak} is above the {found.orders_peak} of an order of Inductor's")
    emitted = emissions(nodes)
    cut = cuts(found.graph, order, emitted, found.schedule.peak)
    emitted_peak = grouped_peak(found.graph, order, emitted, cut)
    return OrderedNodes(nodes, found, emitted_peak, list(cut), grouped_peak(model.graph_for(stock), stock, emitted))

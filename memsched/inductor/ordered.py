"""The fused nodes in an order: extracted, searched under the memory model, judged, with what their code will need.

nodes ──> Inductor's account of them ──> model ──> order ──> groups of C++ kernels cut where they would free late
                                           ├─────> what stock's own order of these nodes needs
           └─────> is it proved that no order of them needs as little as another plan does?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Options
from memsched.inductor.extract import extract_graph
from memsched.inductor.host import num_kernels, stock_reorder
from memsched.inductor.storages.build import model_of
from memsched.inductor.storages.emissions import emissions
from memsched.search.orders.inductor import priority_order
from memsched.storage.bound import model_bound
from memsched.storage.kernel_groups import Emission, cuts, grouped_peak
from memsched.storage.model import AllocationModel
from memsched.storage.order import ModelledOrder, bounded, in_other_order, order_under

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["NodesToOrder", "OrderedNodes"]


Given: TypeAlias = "Callable[[Graph, Sequence[BaseSchedulerNode]], tuple[int, ...]]"


@dataclass(frozen=True, slots=True)
class OrderedNodes:
    """Nodes with the order found for them; bytes.

    found: the order of `given`, whose node i is its op i.
    emitted_peak: of the generated code, with its groups of C++ kernels ended before the ops `cut`.
    """

    given: NodesToOrder
    found: ModelledOrder
    emitted_peak: int
    cut: list[int]

    @classmethod
    def judged(cls, given: NodesToOrder, found: ModelledOrder) -> OrderedNodes:
        """With groups of C++ kernels cut where they would free late."""
        graph, schedule = found.graph, found.schedule
        cut = cuts(graph, schedule.order, given.emitted, schedule.peak)
        emitted_peak = grouped_peak(graph, schedule.order, given.emitted, cut)
        return cls(given, found, emitted_peak, list(cut))

    def bounded(self, options: Options) -> OrderedNodes:
        """The same order, with the best bound that `options` allow to prove."""
        return replace(self, found=bounded(self.given.model, self.found, options))

    @property
    def nodes(self) -> list[BaseSchedulerNode]:
        """Op i of `found.graph` is nodes[i]."""
        return self.given.nodes

    def reordered(self, nodes: Sequence[BaseSchedulerNode]) -> OrderedNodes:
        """The same nodes in an order that somebody else has chosen, as far as the graph allows it."""
        place = {node: at for at, node in enumerate(nodes)}
        order = priority_order(self.given.model.estimate, [place[node] for node in self.nodes])
        return OrderedNodes.judged(self.given, in_other_order(self.given.model, self.found, order))

    def is_as_good_as(self, other: OrderedNodes, free: float) -> bool:
        """Whether it needs no more bytes than `other`, then no more kernels; below `free` bytes only kernels count."""
        mine, theirs = (max(one.emitted_peak, free) for one in (self, other))
        return (mine, num_kernels(self.nodes)) <= (theirs, num_kernels(other.nodes))

    def in_order(self) -> list[BaseSchedulerNode]:
        """The nodes as they are to run."""
        return [self.nodes[op] for op in self.found.schedule.order]

    def order_of(self, graph: Graph, nodes: Sequence[BaseSchedulerNode]) -> tuple[int, ...]:
        """The same work in this order, as far as `graph` allows it, where it is fused into other `nodes`."""
        ordered = self.in_order()
        at = {name: position for position, node in enumerate(ordered) for name in node.get_operation_names()}
        names = (node.get_operation_names() for node in nodes)
        return priority_order(graph, [max((at.get(name, 0) for name in some), default=0) for some in names])


@dataclass(frozen=True, slots=True)
class NodesToOrder:
    """Fused nodes as stock leaves them, not searched yet; bytes.

    nodes: op i of the model is nodes[i].
    stock: the order that stock would give them; stock_peak: what its code needs then, with stock's own groups.
    """

    nodes: list[BaseSchedulerNode]
    name: str
    model: AllocationModel
    stock: tuple[int, ...]
    emitted: list[Emission]
    stock_peak: int

    @classmethod
    def of(cls, nodes: list[BaseSchedulerNode], name: str, *, measure_scratch: bool = True) -> NodesToOrder:
        """The `nodes`, which the scheduler of `V.graph` holds; measure_scratch: as in `memsched.inductor.options`.

        Raises:
            ExtractionError: the nodes do not mean what memsched believes.
        """
        graph = extract_graph(nodes, name, "postfusion")
        # Fusion may have permuted nodes with effects against program order: start from an order that restores it.
        legal = priority_order(graph, range(len(nodes)))
        if legal != tuple(range(len(nodes))):
            nodes = [nodes[op] for op in legal]
            graph = extract_graph(nodes, name, "postfusion")
        model = model_of(graph, nodes, measure_scratch=measure_scratch)
        place = {node: at for at, node in enumerate(stock_reorder(nodes))}
        stock = priority_order(graph, [place[node] for node in nodes])
        emitted = emissions(nodes)
        return cls(nodes, name, model, stock, emitted, grouped_peak(model.graph_for(stock), stock, emitted))

    def need_more_than(self, limit: int) -> bool:
        """Whether it is proved, by few minimum cuts, that no order of the nodes gets along with `limit` bytes."""
        bound, _ = model_bound(self.model, self.stock, limit + 1)
        return bound > limit

    def in_best_order(
        self, options: Options, given: Given | None = None, hopeless_above: int | None = None
    ) -> OrderedNodes:
        """The best order found, never above stock's own.

        given: an order to begin with, of the graph that it is called with.
        hopeless_above: bytes; where the first search ends above, no other follows.

        Raises:
            AssertionError: the order found needs more than one of Inductor's; this is memsched's fault.
        """
        starts = [self.stock, *([given(self.model.estimate, self.nodes)] if given else [])]
        found = order_under(self.model, options, starts, hopeless_above)
        order = found.schedule.order
        peak = max(found.schedule.peak, peak_bytes(found.graph, order))
        if peak > found.orders_peak:
            raise AssertionError(f"{self.name}: peak {peak} is above the {found.orders_peak} of an order of Inductor's")
        return OrderedNodes.judged(self, found)

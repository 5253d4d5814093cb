"""The order of the fused nodes: searched under the memory model, judged by it, bounded for it.

What shares a storage depends on the order (`memsched.inductor.memory_model`), and solvers want one graph.  So two are
searched, and the model says which of the orders is best:

    planning graph   exact or too high for every order                     ──> an order
    relaxed graph    exact or too low; only where it is another graph       ──> an order, and the lower bound
    Inductor's four orders, and the planner's                               ──> starts, and never worse than the best

The reported graph is the model's graph for the chosen order, so its peak is the order's under `memsched.core.peak`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memsched.core.check import check_order
from memsched.core.graph import Graph
from memsched.core.result import Certificate, Options, Schedule, StatementCertificate, status_of
from memsched.inductor.memory_model import AllocationModel
from memsched.search.bounds import cut_bound
from memsched.search.heuristics import priority_order, stock_orders
from memsched.search.solver import solve

__all__ = ["ModelledOrder", "order_under"]


@dataclass(frozen=True, slots=True)
class ModelledOrder:
    """An order with the model's graph for it; `stock_peak` is the least of Inductor's own four orders, in bytes."""

    graph: Graph
    schedule: Schedule
    stock_peak: int


def order_under(model: AllocationModel, options: Options, given: Sequence[Sequence[int]] = ()) -> ModelledOrder:
    """The best order found, never above Inductor's four orders and those given, and what bounds it.

    Raises:
        CheckError: what was found is no order of the nodes.
    """
    stock = list(stock_orders(model.estimate).values())
    start = min([*stock, *map(tuple, given)], key=model.peak)
    stock_peak = min(map(model.peak, stock))
    planning = model.planning_graph(start)
    schedule = solve(planning, options, start_orders=[start])
    check_order(planning, schedule.order)
    if not model.depends_on_order:
        return ModelledOrder(planning, schedule, stock_peak)
    relaxed = _solve_relaxed(model, options, [schedule.order, start])
    order = min([schedule.order, relaxed.order, start], key=model.peak)
    graph = model.graph_for(order)
    check_order(graph, order)
    bound, certificate = _followable(graph, relaxed)
    peak = model.peak(order)
    return ModelledOrder(
        graph,
        replace(
            schedule,
            order=order,
            peak=peak,
            lower_bound=bound,
            status=status_of(peak, bound),
            seconds=schedule.seconds + relaxed.seconds,
            certificate=certificate,
            note="; ".join(filter(None, [schedule.note, "bounded on the relaxed graph"])),
        ),
        stock_peak,
    )


def _solve_relaxed(model: AllocationModel, options: Options, orders: Sequence[Sequence[int]]) -> Schedule:
    """The answer for the relaxed graph, with an order of the nodes alone."""
    relaxed = model.relaxed_graph()
    nodes = len(model.estimate)
    starts = []
    for order in orders:
        position = [0.0] * len(relaxed)
        for at, op in enumerate(order):
            position[op] = at
        for extra in range(nodes, len(relaxed)):
            position[extra] = position[relaxed.predecessors[extra][0]] + 0.5
        starts.append(priority_order(relaxed, position))
    answer = solve(relaxed, options, start_orders=starts)
    return replace(answer, order=tuple(op for op in answer.order if op < nodes))


def _followable(graph: Graph, relaxed: Schedule) -> tuple[int, Certificate | None]:
    """The bound of the relaxed graph, with a certificate for the reported one, which proves at least as much there."""
    bound = relaxed.lower_bound
    proved, certificate = cut_bound(graph, stop_at=bound)
    if proved >= bound:
        return bound, certificate
    statement = f"a graph that is never above the memory model was bounded by {relaxed.method}"
    return bound, StatementCertificate(bound, relaxed.method, statement)

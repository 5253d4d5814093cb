"""The order of the fused nodes: searched under the memory model, judged by it, bounded for it.

What shares a storage depends on the order (`memsched.storage.model`), and solvers want one graph.  So two are
searched, and the model judges the orders:

    Inductor's four orders, the planner's      the best under the model is the start; the answer is never above it
    planning graph                             exact or too high for every order           ──> an order
    the graph of that order, as it shares      where a gap is left                         ──> a better one
    with one more reuse than that order        where a gap is left                         ──> a better one
    planning graph, less what may be reused    (`memsched.storage.bound`)           ──> the lower bound
    relaxed graph                              where a gap is left: `bounded`              ──> a better bound

The last is for the order that a caller has decided for, of two ways to fuse the same nodes.  The reported graph is the
model's graph for the chosen order, so its peak is the order's under `memsched.core.peak`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memsched.check.order import check_order
from memsched.core.graph import Graph, GraphError
from memsched.core.peak import memory_profile
from memsched.core.result import Certificate, Options, Schedule, status_of
from memsched.search.cuts.bounds import cut_bound
from memsched.search.orders.inductor import priority_order, stock_orders
from memsched.search.solver import solve
from memsched.storage.bound import model_bound, relaxed_bound
from memsched.storage.model import AllocationModel

__all__ = ["ModelledOrder", "bounded", "in_other_order", "order_under"]

_TRIES = 4
"""Reuses that are forced, one at a time, in search of a better order."""


@dataclass(frozen=True, slots=True)
class ModelledOrder:
    """An order with the model's graph for it; `orders_peak`: the least of Inductor's four orders; bytes."""

    graph: Graph
    schedule: Schedule
    orders_peak: int


def order_under(
    model: AllocationModel,
    options: Options,
    given: Sequence[Sequence[int]] = (),
    hopeless_above: int | None = None,
) -> ModelledOrder:
    """The best order found, never above Inductor's four orders and those given, and what cuts say of all orders.

    hopeless_above: bytes; where the first search ends above, no other follows, since the caller has a better plan.

    Raises:
        CheckError: what was found is no order of the nodes.
    """
    stock = list(stock_orders(model.estimate).values())
    orders_peak = min(map(model.peak, stock))
    start = min([*stock, *map(tuple, given)], key=model.peak)
    planning = model.planning_graph()
    schedule = solve(planning, options, start_orders=[model.with_allocations(start)])
    check_order(planning, schedule.order)
    if not model.depends_on_order:
        return ModelledOrder(planning, schedule, orders_peak)
    planned = model.without_allocations(schedule.order)
    order = min([planned, start], key=model.peak)
    bound, certificate = schedule.lower_bound, schedule.certificate
    if model.order_dependent_reuses:
        bound, certificate = model_bound(model, order, model.peak(order))
    hopeless = hopeless_above is not None and model.peak(order) > hopeless_above
    if model.peak(order) > bound and not hopeless:
        order = _search_as_shared(model, options, order)
        order = _search_with_more_reuse(model, options, order, bound)
    graph = model.graph_for(order)
    check_order(graph, order)
    return ModelledOrder(graph, _judged(model, schedule, order, bound, certificate), orders_peak)


def bounded(model: AllocationModel, found: ModelledOrder, options: Options) -> ModelledOrder:
    """`found` with the best bound that `options` allow to prove, and a certificate that can be followed where one is.

    That costs about as much as the order did, so it is for the order that a caller has decided for.
    """
    if not model.depends_on_order:
        return found
    order, peak = found.schedule.order, found.schedule.peak
    bound, certificate = found.schedule.lower_bound, found.schedule.certificate
    if peak > bound and (relaxed := relaxed_bound(model, order, bound, options)) is not None:
        bound, certificate = relaxed
    certificate = _followable(found.graph, order, bound, certificate)
    return replace(found, schedule=_judged(model, found.schedule, order, bound, certificate))


def _judged(
    model: AllocationModel, schedule: Schedule, order: tuple[int, ...], bound: int, certificate: Certificate | None
) -> Schedule:
    """`schedule` with another order, and what is proved of all orders."""
    peak = model.peak(order)
    status = status_of(peak, bound)
    return replace(schedule, order=order, peak=peak, lower_bound=bound, status=status, certificate=certificate)


def in_other_order(model: AllocationModel, found: ModelledOrder, order: tuple[int, ...]) -> ModelledOrder:
    """What `order`, which somebody else has chosen, needs; the bound of `found` is one of every order.

    Raises:
        CheckError: it is no order of the nodes.
    """
    graph = model.graph_for(order)
    check_order(graph, order)
    bound = found.schedule.lower_bound
    certificate = _followable(graph, order, bound, found.schedule.certificate)
    return ModelledOrder(graph, _judged(model, found.schedule, order, bound, certificate), found.orders_peak)


def _search_as_shared(model: AllocationModel, options: Options, order: tuple[int, ...]) -> tuple[int, ...]:
    """An order that is at least as good, searched among those that share storages as `order` does."""
    found = solve(model.graph_for(order), _part_of(options), start_orders=[order])
    return min([order, found.order], key=model.peak)


def _search_with_more_reuse(
    model: AllocationModel, options: Options, order: tuple[int, ...], bound: int
) -> tuple[int, ...]:
    """An order that is at least as good, searched among those that also make a reuse that `order` misses at its peak.

    What is missed up to the peak is tried, the largest first.
    """
    profile = memory_profile(model.graph_for(order), order)
    until = {op: at for at, op in enumerate(order[: profile.peak_step + 1])}
    missed = [reuse for reuse in model.missed_by(order) if reuse.op in until]
    for reuse in sorted(missed, key=lambda one: (-model.saved_by(one), -until[one.op]))[:_TRIES]:
        try:
            graph = model.planning_graph([reuse])
        except GraphError:
            continue  # a reader that it waits for is a descendant
        start = priority_order(graph, _positions(model, order))
        found = solve(graph, _part_of(options), start_orders=[start])
        order = min([order, model.without_allocations(found.order)], key=model.peak)
        if model.peak(order) <= bound:
            break
    return order


def _positions(model: AllocationModel, order: Sequence[int]) -> list[int]:
    extended = model.with_allocations(order)
    position = [0] * len(extended)
    for at, op in enumerate(extended):
        position[op] = at
    return position


def _part_of(options: Options, parts: int = _TRIES) -> Options:
    """A share of the limits, for a search that only improves."""
    work = None if options.work_limit is None else options.work_limit // parts
    return replace(options, work_limit=work, time_limit_s=options.time_limit_s / parts)


def _followable(graph: Graph, order: Sequence[int], bound: int, certificate: Certificate | None) -> Certificate | None:
    """A certificate that the reported graph cannot go below `bound`, which can be checked; else the statement.

    order: a good one; the lower its steps, the fewer cuts are computed.
    """
    proved, followable = cut_bound(graph, stop_at=bound, incumbent_order=order)
    return followable if proved >= bound else certificate

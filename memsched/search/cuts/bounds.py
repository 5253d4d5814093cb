"""Lower bounds that hold for every order, with certificates.

Start and end.  Every order begins with all inputs live and ends with all kept buffers live.

Minimum cut.  No order runs an op below the least live bytes of a down-set with which it can start, plus its outputs and
workspace (`memsched.search.cuts.cuts`).  The largest of these numbers over all ops bounds every order.

Few flows are needed.  The step peak of op v in *any* order is at least its cut bound, so the least step peak seen so
far is an upper estimate of it.  Ops are taken by decreasing estimate until none is above the best bound.  After each
cut the order is rerouted through the cut's down-set and replayed: v's step falls to its least, and many of the steps
around it fall too.  On captured backward graphs of 600 to 900 ops that leaves 10 to 20 flows of several hundred.

    step peaks   9 12 20 19 18 11 7      cut at the 20: it needs 13, reroute:  9 12 13 14 13 11 8
                                         next is the 14: its cut is 12.  No estimate above 13 is left: the bound is 13.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from memsched.core.graph import Graph
from memsched.core.peak import memory_profile
from memsched.core.result import Certificate, EndpointCertificate
from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.cuts.cuts import Cut, CutSolver, reroute

__all__ = ["cut_bound", "endpoint_bound"]


def endpoint_bound(graph: Graph) -> tuple[int, EndpointCertificate]:
    """The larger of the bytes that are live before the first op and after the last."""
    bound = max(graph.start_bytes, graph.end_bytes)
    return bound, EndpointCertificate(bound)


def cut_bound(
    graph: Graph,
    stop_at: int | None = None,
    budget: Budget | None = None,
    incumbent_order: Sequence[int] | None = None,
    weaken: Callable[[int, int], int] | None = None,
) -> tuple[int, Certificate]:
    """The largest of the start and end bytes and the minimum-cut bounds of all ops, with its certificate; bytes.

    stop_at: stop as soon as the bound reaches it (the peak of an order: then that order is optimal).
    budget: stop, with the best bound so far, when it is exhausted; None goes on to the end.
    incumbent_order: a topological order; the lower its step peaks, the fewer flows are computed.
    weaken: says what remains of an op's cut bound, given (op, bound), where ops may need less than the graph says;
        then the certificate proves more than the bound, for the graph as it is.
    """
    bound, certificate = endpoint_bound(graph)
    best: Cut | None = None
    solver = CutSolver(graph)
    estimates = _UpperEstimates(graph, graph.topological_order if incumbent_order is None else incumbent_order)
    while stop_at is None or bound < stop_at:
        op = estimates.pop_above(bound)
        if op is None:
            break
        cut = solver.cut_at(op, floor=bound)
        if cut is not None:
            estimates.refine(cut)
            remains = cut.bound if weaken is None or cut.bound <= bound else weaken(op, cut.bound)
            if remains > bound:
                bound, best = remains, cut
        if budget is not None and not budget.spend(1 + solver.work // prices.CUT_WORK):
            break
    return bound, certificate if best is None else best.certificate()


class _UpperEstimates:
    """For each op the least step peak of all orders seen, which its cut bound cannot exceed; and a heap of them."""

    def __init__(self, graph: Graph, order: Sequence[int]) -> None:
        self._graph = graph
        self._order = list(order)
        self._estimate = [1 << 63] * len(graph)
        self._replay()
        self._heap = [(-estimate, op) for op, estimate in enumerate(self._estimate)]
        heapq.heapify(self._heap)

    def pop_above(self, bound: int) -> int | None:
        """Remove and return the op of largest estimate; None when no estimate is above `bound`."""
        while self._heap and -self._heap[0][0] > bound:
            negative, op = heapq.heappop(self._heap)
            if -negative == self._estimate[op]:
                return op
            heapq.heappush(self._heap, (-self._estimate[op], op))
        return None

    def refine(self, cut: Cut) -> None:
        """Reroute the order through the cut and lower the estimates."""
        self._order = reroute(self._order, cut.done, cut.op)
        self._replay()

    def _replay(self) -> None:
        step_peaks = memory_profile(self._graph, self._order).step_peaks
        for op, step_peak in zip(self._order, step_peaks, strict=True):
            if step_peak < self._estimate[op]:
                self._estimate[op] = step_peak

"""A lower bound for the memory model, in which an output may or may not be written over an input, by the order.

The solvers bound a graph with fixed storages.  Under the model the live bytes *between* ops are those of such a graph,
`AllocationModel.planning_graph`: whether o takes over i's storage or i is freed and o allocated, the same bytes are
live before and after.  Only the step peak of the op that writes o differs, by the size of o:

    i dies at v, o reuses it    step peak: level before v + other outputs of v         every other reader of i has run
    otherwise                   step peak: level before v + all outputs of v

So an op that has no such output keeps its minimum-cut bound (`memsched.search.cuts.cuts`).  An op that has one needs,
in every order, at least the lesser of

    its cut bound
    its cut bound *given that the other readers of i have run*, less the size of o

and with several such outputs the least over all ways to choose.  The bound of the graph is the largest of its ops'.
An order whose peak meets it is optimal under the model.

Where that leaves a gap, the solver bounds `AllocationModel.relaxed_graph`, in which v does not keep i alive: no order
has more live bytes there than under the model, so what every order of it needs, every order of the model needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from memsched.core.result import Certificate, EndpointCertificate, Options, StatementCertificate
from memsched.search.cuts.bounds import cut_bound
from memsched.search.cuts.cuts import CutSolver
from memsched.search.solver import solve
from memsched.storage.model import AllocationModel, ReuseChoice

__all__ = ["model_bound", "relaxed_bound"]

_LOW_SHARE = 0.2
"""Of the work, for an order of the relaxed graph that shows that there is nothing to prove."""
_MOST_WAYS = 16
"""Ways of reusing at one op that are told apart; beyond, all savings are granted at once."""


def model_bound(model: AllocationModel, order: Sequence[int], peak: int) -> tuple[int, Certificate | None]:
    """The least bytes that any order needs under the model, as far as minimum cuts tell; at most `peak`, its own.

    order: a good one; the lower its steps, the fewer cuts are computed.
    """
    bounds = _OpBounds(model)
    bound, certificate = cut_bound(
        bounds.graph, stop_at=peak, incumbent_order=model.with_allocations(order), weaken=bounds.least
    )
    if isinstance(certificate, EndpointCertificate) or not bounds.weakened:
        return bound, certificate
    statement = "minimum cuts, less the outputs that may be written in place, given what they wait for"
    return bound, StatementCertificate(bound, "minimum cut", statement)


def relaxed_bound(
    model: AllocationModel, order: Sequence[int], bound: int, options: Options
) -> tuple[int, Certificate] | None:
    """A lower bound of the model above `bound`, bytes, searched for on the relaxed graph within `options`.

    None where there is none: some order of the relaxed graph needs no more than `bound`, or the search ended before.

    order: a good one; the lower its peak, the less is left to refute.
    """
    graph = model.relaxed_graph()
    few = None if options.work_limit is None else int(options.work_limit * _LOW_SHARE)
    low = solve(graph, replace(options, method="local", work_limit=few), start_orders=[model.with_allocations(order)])
    if low.peak <= bound:
        return None
    found = solve(graph, options, start_orders=[low.order])
    if found.lower_bound <= bound:
        return None
    statement = f"{found.method} on the graph in which an op that may write over an input does not keep it alive"
    return found.lower_bound, StatementCertificate(found.lower_bound, "relaxation", statement)


class _OpBounds:
    """The bounds of single ops, from their cut bounds."""

    def __init__(self, model: AllocationModel) -> None:
        self.graph = model.planning_graph()
        self.weakened = False
        self._choices = model.order_dependent_reuses
        self._solver = CutSolver(self.graph)

    def least(self, op: int, cut: int) -> int:
        """What `op` needs in every order, `cut` being its cut bound; bytes."""
        choices = self._choices.get(op)
        if not choices:
            return cut
        self.weakened = True
        least = cut
        for waits_for, saved in _ways(choices):
            with_reuse = self._solver.cut_at(op, earlier=sorted(waits_for))
            assert with_reuse is not None
            least = min(least, with_reuse.bound - saved)
        return least


def _ways(choices: Sequence[ReuseChoice]) -> Iterator[tuple[frozenset[int], int]]:
    """(ops that must have run, bytes saved) of every way to write some of the outputs in place."""
    ways = 1
    for choice in choices:
        ways *= 1 + len(choice.waits_for)
    if ways > _MOST_WAYS:
        yield frozenset(), sum(choice.saved for choice in choices)
        return
    for chosen in itertools.product(*[(None, *choice.waits_for) for choice in choices]):
        taken = [(some, choice.saved) for some, choice in zip(chosen, choices, strict=True) if some is not None]
        if taken:
            yield frozenset().union(*(some for some, _ in taken)), sum(saved for _, saved in taken)

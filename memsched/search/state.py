"""The best order and the best bound that a solve has so far; it believes nobody.

    offer(order, method)        checked, replayed by `memsched.core.peak`, kept when it is strictly better
    prove(bound, certificate)   kept when it is strictly better, or takes the place of a mere statement;
                                an error when a valid order contradicts it

So the peak that comes out is the peak of a valid order, never above the first one, and an order below a "proved"
bound or a bound above a valid order, which would be a mistake of a stage, is refused and never reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from memsched.check.error import CheckError
from memsched.check.order import check_order
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Certificate, EndpointCertificate, Options, StatementCertificate
from memsched.search.budget import Budget

__all__ = ["State"]


@dataclass(slots=True)
class State:
    """What the stages of a solve share; `method` is who found the order, `probed_peak` the peak below which probing
    has looked.  Bytes.
    """

    graph: Graph
    options: Options
    budget: Budget
    order: tuple[int, ...]
    peak: int
    method: str = "incoming"
    lower_bound: int = 0
    certificate: Certificate | None = None
    probed_peak: int | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, graph: Graph, options: Options) -> State:
        """The incoming order, and the bound that costs nothing: what is live before the first op or after the last."""
        incoming = graph.topological_order
        budget = Budget.for_seconds(options.time_limit_s, options.work_limit)
        state = cls(graph, options, budget, incoming, peak_bytes(graph, incoming))
        bound = max(graph.start_bytes, graph.end_bytes)
        if bound:
            state.prove(bound, EndpointCertificate(bound))
        return state

    @property
    def closed(self) -> bool:
        """Whether peak and bound meet: nothing is left to do."""
        return self.peak == self.lower_bound

    @property
    def out_of_budget(self) -> bool:
        """Whether units or time have run out; the clock is read here, because not every stage does."""
        return self.budget.exhausted_by_now()

    def offer(self, order: Sequence[int], method: str) -> None:
        """Take `order` if it is strictly better; raises CheckError when it is not an order, or refutes the bound."""
        check_order(self.graph, order)
        peak = peak_bytes(self.graph, order)
        if peak < self.lower_bound:
            raise CheckError(f"the order of {method} needs {peak} bytes, below the bound {self.lower_bound}")
        if peak < self.peak:
            self.order, self.peak, self.method = tuple(order), peak, method

    def prove(self, bound: int, certificate: Certificate) -> None:
        """Take `bound` if it is strictly better, or as good and now with a proof that can be followed.

        Raises CheckError when a valid order contradicts it.
        """
        if bound > self.peak:
            raise CheckError(f"a bound of {bound} bytes, above the peak {self.peak} of a valid order")
        stated = isinstance(self.certificate, StatementCertificate)
        followable = stated and not isinstance(certificate, StatementCertificate)
        if bound > self.lower_bound or (bound == self.lower_bound and followable):
            self.lower_bound, self.certificate = bound, certificate

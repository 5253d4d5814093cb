"""The policy: which method is asked, in which order, and what may be believed of the answer.

    solve(graph) = candidates ──> bounds ──> exact methods ──> local search ──> ILP ──> Schedule
                       │            │             │                 │            │
                       └────────────┴──── one State: the best order, the best bound ────┘

A *stage* reads the state, and may *offer* an order or *prove* a bound.  The state believes neither: an offered order
is checked and its peak is recomputed by `memsched.core.peak`; a bound above the peak of a valid order is an error of
the stage, and is refused.  The stages run in the order of an explicit tuple, and the rest is skipped as soon as peak
and bound meet.  So, whatever a stage does, the answer

    is a valid order,
    is never above the best of the incoming order, Inductor's other three and `start_orders`,
    is called optimal only when a bound meets its peak.

A stage that fails or that lacks its solver leaves a note in `Schedule.note` and changes nothing else (with
`Options.strict` it raises).  All stages share one `Budget`, counted in units of work, so that the same graph and the
same options give the same order on every machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memsched.core.check import CheckError, check_order
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Certificate, EndpointCertificate, Options, Schedule, status_of
from memsched.search.budget import Budget

__all__ = ["METHODS", "SolverError", "solve"]


class SolverError(ValueError):
    """What was asked cannot be done: an unknown method, or (with `Options.strict`) a stage that failed."""


@dataclass(slots=True)
class State:
    """The best order and the best bound so far, and who found them."""

    graph: Graph
    options: Options
    budget: Budget
    order: tuple[int, ...]
    peak: int
    method: str = "incoming"
    lower_bound: int = 0
    certificate: Certificate | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def closed(self) -> bool:
        """Whether peak and bound meet: nothing is left to do."""
        return self.peak == self.lower_bound

    def offer(self, order: Sequence[int], method: str) -> None:
        """Take `order` if it is valid and strictly better; raises CheckError when it is not an order."""
        check_order(self.graph, order)
        peak = peak_bytes(self.graph, order)
        if peak < self.lower_bound:
            raise CheckError(f"order of {method} peaks at {peak} bytes, below the bound {self.lower_bound}")
        if peak < self.peak:
            self.order, self.peak, self.method = tuple(order), peak, method

    def prove(self, bound: int, certificate: Certificate) -> None:
        """Take `bound` if it is strictly better; raises CheckError when a valid order contradicts it."""
        if bound > self.peak:
            raise CheckError(f"a bound of {bound} bytes, above the peak {self.peak} of a valid order")
        if bound > self.lower_bound:
            self.lower_bound, self.certificate = bound, certificate


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the policy: a name for the notes, and what it does to the state."""

    name: str
    run: Callable[[State], None]


def solve(graph: Graph, options: Options | None = None, start_orders: Sequence[Sequence[int]] = ()) -> Schedule:
    """The order of least peak that the limits of `options` allow to find, and the best bound that they allow to prove.

    start_orders: topological orders that the caller has; the answer is never above the best of them.
    Raises SolverError for an unknown method, and CheckError when a start order is not a topological order.
    """
    options = options or Options()
    if options.method not in METHODS:
        raise SolverError(f"method {options.method!r} is unknown; there are {', '.join(METHODS)}")
    started = time.perf_counter()
    state = _start(graph, options, start_orders)
    for stage in _STAGES_OF[options.method]:
        if state.closed:
            break
        _run(stage, state)
    return Schedule(
        order=state.order,
        peak=state.peak,
        lower_bound=state.lower_bound,
        status=status_of(state.peak, state.lower_bound if state.certificate else None),
        method=state.method,
        seconds=time.perf_counter() - started,
        certificate=state.certificate,
        note="; ".join(state.notes),
    )


def _start(graph: Graph, options: Options, start_orders: Sequence[Sequence[int]]) -> State:
    """The incoming order and those of the caller, and the bound that costs nothing."""
    incoming = graph.topological_order
    budget = Budget.for_seconds(options.time_limit_s, options.work_limit)
    state = State(graph, options, budget, incoming, peak_bytes(graph, incoming))
    for order in start_orders:
        state.offer(order, "given")
    state.certificate = EndpointCertificate(max(graph.start_bytes, graph.end_bytes))
    state.lower_bound = state.certificate.bound
    return state


def _run(stage: Stage, state: State) -> None:
    """Run one stage; what it got wrong or could not do becomes a note."""
    try:
        stage.run(state)
    except Exception as error:  # a compiler must not die of a search that does
        if state.options.strict:
            raise SolverError(f"{stage.name}: {error}") from error
        reason = str(error).splitlines()[0] if str(error) else ""
        state.notes.append(f"{stage.name}: {type(error).__name__} {reason}".rstrip())


_STAGES_OF: dict[str, tuple[Stage, ...]] = {
    "auto": (),
    "incoming": (),
}

METHODS: tuple[str, ...] = tuple(_STAGES_OF)
"""What `Options.method` may be."""

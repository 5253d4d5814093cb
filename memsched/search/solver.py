"""The policy: which method is asked, in which order, and what may be believed of the answer.

    solve(graph) = candidates ──> bounds ──> exact methods ──> local search ──> ILP ──> Schedule
                       │            │             │                 │            │
                       └────────────┴──── one State: the best order, the best bound ────┘

A *stage* (`memsched.search.stages`) reads the state, and may *offer* an order or *prove* a bound; the state
(`memsched.search.state`) checks both.  The stages run in the order of an explicit tuple, and the rest is skipped as
soon as peak and bound meet.  So, whatever a stage does, the answer

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
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.core.result import Options, Schedule, status_of
from memsched.search import stages
from memsched.search.state import State

__all__ = ["METHODS", "SolverError", "solve"]


class SolverError(ValueError):
    """What was asked cannot be done: an unknown method, or (with `Options.strict`) a stage that failed."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the policy: its name in notes, what it does to the state, whether it runs when nothing is open."""

    name: str
    run: Callable[[State], None]
    when_closed: bool = False


_STOCK = Stage("stock", stages.stock)
_CUT = Stage("cut", stages.cut)
_TREE = Stage("sp", stages.series_parallel)

_STAGES_OF: dict[str, tuple[Stage, ...]] = {
    "auto": (
        _TREE,  # first: near-linear, an optimum is never above stock, and other graphs are given up at once
        _STOCK,
        _CUT,
        Stage("valley", stages.first_valley),
        Stage("local", stages.first_local),
        Stage("probe", stages.probe),
        Stage("local", stages.second_local),
        Stage("probe", stages.probe_again),
        Stage("kernel", stages.kernel),
        Stage("cpsat", stages.small_cpsat),
        Stage("certify", stages.certify, when_closed=True),
    ),
    "stock": (_STOCK,),
    "cut": (_STOCK, _CUT),
    "sp": (_STOCK, _CUT, _TREE),
    "valley": (_STOCK, _CUT, Stage("valley", stages.valley)),
    "probe": (_STOCK, _CUT, Stage("probe", stages.probe)),
    "kernel": (_STOCK, _CUT, Stage("kernel", stages.kernel)),
    "local": (_STOCK, _CUT, Stage("local", stages.local)),
    "cpsat": (_STOCK, _CUT, Stage("cpsat", stages.cpsat)),
    "ilp": (_STOCK, _CUT, Stage("ilp", stages.ilp)),
    "cbc": (_STOCK, _CUT, Stage("cbc", stages.cbc)),
    "model-ilp": (Stage("model-ilp", stages.model_ilp),),
    "xla": (Stage("xla", stages.xla),),
    "serenity": (Stage("serenity", stages.serenity),),
}

METHODS: tuple[str, ...] = tuple(_STAGES_OF)
"""What `Options.method` may be."""


def solve(graph: Graph, options: Options | None = None, start_orders: Sequence[Sequence[int]] = ()) -> Schedule:
    """The order of least peak that the limits of `options` allow to find, and the best bound that they allow to prove.

    start_orders: topological orders that the caller has; the answer is never above the best of them.
    Raises SolverError for an unknown method, and CheckError when a start order is not a topological order.
    """
    options = options or Options()
    if options.method not in METHODS:
        raise SolverError(f"method {options.method!r} is unknown; there are {', '.join(METHODS)}")
    started = time.thread_time()
    state = State.start(graph, options)
    for order in start_orders:
        state.offer(order, "given")
    interrupted = False
    for stage in _STAGES_OF[options.method]:
        if state.closed and not stage.when_closed:
            continue
        if stage is not _STOCK and state.out_of_budget:
            break
        try:
            _run(stage, state)
        except KeyboardInterrupt:
            if not options.answer_interrupted:
                raise
            interrupted = True
            state.notes.append(f"interrupted in {stage.name}")
            break
    if state.budget.timed_out:
        state.notes.append("stopped by the clock")
    return Schedule(
        order=state.order,
        peak=state.peak,
        lower_bound=state.lower_bound,
        status=status_of(state.peak, state.lower_bound if state.certificate or state.closed else None),
        method=state.method,
        seconds=time.thread_time() - started,
        certificate=state.certificate,
        note="; ".join(state.notes),
        interrupted=interrupted,
    )


def _run(stage: Stage, state: State) -> None:
    """Run one stage; what it got wrong or could not do becomes a note."""
    try:
        stage.run(state)
    except Exception as error:  # a compiler must not die of a search that does
        if state.options.strict:
            raise SolverError(f"{stage.name}: {error}") from error
        reason = str(error).splitlines()[0] if str(error) else ""
        state.notes.append(f"{stage.name}: {type(error).__name__} {reason}".rstrip())

"""The stages of a solve: each asks one module, with a share of the budget, and offers what it answers to the state.

A stage may raise: the policy (`memsched.search.solver`) turns that into a note.  Modules are imported when their stage
runs, so that a missing solver is a failure of its stage only.
"""

from __future__ import annotations

from memsched.core.result import StatementCertificate
from memsched.search.budget import Budget
from memsched.search.state import State

__all__ = [
    "cbc",
    "certify",
    "cpsat",
    "cut",
    "first_local",
    "first_valley",
    "ilp",
    "kernel",
    "local",
    "model_ilp",
    "probe",
    "probe_again",
    "second_local",
    "serenity",
    "series_parallel",
    "small_cpsat",
    "stock",
    "valley",
    "xla",
]

_CUT_SHARE = 0.3
_TREE_SHARE = 0.2
_FIRST_VALLEY_SHARE = 0.05
_LOCAL_UNITS_PER_OP = 120
_LEAST_LOCAL_SHARE, _MOST_LOCAL_SHARE = 0.1, 0.4
_PROBE_SHARE = 0.9
_CERTIFY_SHARE = 0.1
_SECOND_LOCAL_SHARE = 0.5
_KERNEL_SHARE = 0.5
_WIDEST_SEARCH = 10_000
"""Ops up to which the methods run whose masks take ops^2 bits."""
_WORK_PER_SECOND = 0.25
"""Deterministic work that a second of the limit buys a solver: low enough that the clock does not stop it."""
_SERENITY_SETS, _SERENITY_ROUNDS = 500, 24
_LARGEST_MODEL = 120
"""Ops up to which a model is asked by the policy: above, its bounds have never been better than the cuts."""


def stock(state: State) -> None:
    """Inductor's four candidates: what the answer must never be above."""
    from memsched.search.orders.inductor import stock_orders

    for name, order in stock_orders(state.graph).items():
        state.offer(order, name)


def xla(state: State) -> None:
    """XLA's three candidates (list, depth-first, post-order), for comparison."""
    from memsched.search.orders.xla import xla_orders

    for name, order in xla_orders(state.graph).items():
        state.offer(order, f"xla {name}")


def serenity(state: State) -> None:
    """Serenity's dynamic program over down-sets, for comparison; an optimum that it finds is not called proved."""
    from memsched.search.orders.serenity import serenity_order

    order = serenity_order(state.graph, max_sets=_SERENITY_SETS, max_rounds=_SERENITY_ROUNDS)
    if order is None:
        state.notes.append(f"serenity: no budget leaves at most {_SERENITY_SETS} down-sets at every step")
    else:
        state.offer(order, "serenity")


def cut(state: State) -> None:
    """The minimum-cut bound, up to the peak of the best order."""
    from memsched.search.cuts.bounds import cut_bound

    with state.budget.share(_CUT_SHARE) as share:
        bound, certificate = cut_bound(state.graph, state.peak, share, state.order)
    state.prove(bound, certificate)


def series_parallel(state: State) -> None:
    """The polynomial algorithm, when the precedences are series-parallel."""
    from memsched.series_parallel.shared import solve_series_parallel

    with state.budget.share(_TREE_SHARE) as share:
        schedule = solve_series_parallel(state.graph, share)
    if schedule is None:
        return
    state.offer(schedule.order, schedule.method)
    if schedule.certificate is not None:
        state.prove(schedule.lower_bound, schedule.certificate)


def first_valley(state: State) -> None:
    """Exact search with a small share of the budget: enough for most graphs."""
    with state.budget.share(_FIRST_VALLEY_SHARE) as share:
        _search(state, share)


def valley(state: State) -> None:
    """Exact search with all that is left."""
    _search(state, state.budget)


def first_local(state: State) -> None:
    """Local search with part of the budget, more for large graphs: the better the order, the more probing refutes."""
    wanted = _LOCAL_UNITS_PER_OP * len(state.graph.ops) / max(1, state.budget.units)
    with state.budget.share(min(_MOST_LOCAL_SHARE, max(_LEAST_LOCAL_SHARE, wanted))) as share:
        _improve(state, share, state.options.seed)


def second_local(state: State) -> None:
    """Local search again, with another seed: what the bounds have left of the budget, but a little."""
    with state.budget.share(_SECOND_LOCAL_SHARE) as share:
        _improve(state, share, state.options.seed + 1)


def local(state: State) -> None:
    """Local search with all that is left."""
    _improve(state, state.budget, state.options.seed)


def _improve(state: State, budget: Budget, seed: int) -> None:
    from memsched.search.local.search import improve

    order = improve(state.graph, state.order, floor=state.lower_bound, budget=budget, seed=seed)
    state.offer(order, "local")


def _search(state: State, budget: Budget) -> None:
    """Exact search between the ends of the best order; what it commits improves that order even when it is cut off."""
    from memsched.search.exact.problem import Problem
    from memsched.search.refute.refute import search_within

    if len(state.graph.ops) > _WIDEST_SEARCH:
        return
    problem = Problem.from_graph(state.graph)
    found = search_within(
        problem, lower_bound=state.lower_bound, upper_bound=state.peak, budget=budget, incumbent=state.order
    )
    if found.order is not None:
        state.offer(found.order, "valley")
    _prove_by_search(state, found.lower_bound, found.states)


def probe(state: State) -> None:
    """Refute every peak below the best, or find a lower one."""
    from memsched.search.refute.refute import refute

    if len(state.graph.ops) > _WIDEST_SEARCH:
        return
    state.probed_peak = state.peak
    with state.budget.share(_PROBE_SHARE) as share:
        found = refute(state.graph, lower_bound=state.lower_bound, upper_bound=state.peak, budget=share)
    if found.order is not None:
        state.offer(found.order, "probing")
    state.prove(found.certificate.bound, found.certificate)


def probe_again(state: State) -> None:
    """Probing at the level of a better order than the last one, if there is one; otherwise it would say the same."""
    if state.probed_peak is None or state.peak < state.probed_peak:
        probe(state)


def certify(state: State) -> None:
    """Look for a certificate of an optimum that has been proved by a search, which leaves none."""
    from memsched.search.refute.refute import certified

    searched = isinstance(state.certificate, StatementCertificate) and state.peak != state.probed_peak
    if not state.closed or not searched or len(state.graph.ops) > _WIDEST_SEARCH:
        return
    with state.budget.share(_CERTIFY_SHARE) as share:
        certificate = certified(state.graph, state.peak, share)
    if certificate is not None:
        state.prove(state.peak, certificate)


def kernel(state: State) -> None:
    """Exact search on the kernel: series-parallel parts and modules collapsed."""
    from memsched.search.exact.reduce import kernelize
    from memsched.search.refute.refute import search_within

    if len(state.graph.ops) > _WIDEST_SEARCH:
        return
    with state.budget.share(_KERNEL_SHARE) as share:
        small = kernelize(state.graph, share)
    found = search_within(small.problem, lower_bound=state.lower_bound, upper_bound=state.peak, budget=state.budget)
    if found.order is not None:
        state.offer(small.lift(found.order), "kernel")
    _prove_by_search(state, found.lower_bound, found.states)


def _prove_by_search(state: State, bound: int, num_states: int) -> None:
    statement = f"every order that peaks lower was excluded by exact search over {num_states} down-sets"
    state.prove(bound, StatementCertificate(bound, "valley", statement))


def cpsat(state: State) -> None:
    """OR-Tools CP-SAT on the whole graph."""
    _model(state, "cpsat")


def small_cpsat(state: State) -> None:
    """CP-SAT, when the caller allows it and the graph is small enough for it to help."""
    if state.options.use_ilp and len(state.graph.ops) <= _LARGEST_MODEL:
        _model(state, "cpsat")


def ilp(state: State) -> None:
    """The ILP with HiGHS on the whole graph."""
    _model(state, "ilp")


def cbc(state: State) -> None:
    """The ILP with CBC on the whole graph."""
    _model(state, "cbc")


def model_ilp(state: State) -> None:
    """MODeL's ILP with HiGHS, without our floor and warm start."""
    _model(state, "model-ilp")


def _model(state: State, solver: str) -> None:
    """Ask a solver in a child process, for the time that is left."""
    from memsched.search.models.child import solve_in_child
    from memsched.search.models.model import ModelLimits

    if state.budget.exhausted:
        return
    seconds = state.budget.seconds_left
    limits = ModelLimits(seconds=seconds, work=seconds * _WORK_PER_SECOND, seed=state.options.seed)
    state.budget.spend(state.budget.units)
    answer = solve_in_child(solver, state.graph, state.order, state.lower_bound, limits)
    if answer.failure:
        state.notes.append(f"{answer.failure}; what it had found is kept")
    elif not answer.repeatable:
        state.notes.append(f"{solver}: stopped by the clock")
    if answer.order is not None:
        state.offer(answer.order, solver)
    statement = "proved by branch and bound" if answer.finished else "bound of an unfinished branch and bound"
    state.prove(answer.lower_bound, StatementCertificate(answer.lower_bound, solver, statement))

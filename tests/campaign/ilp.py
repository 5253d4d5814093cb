"""The models and the polynomial algorithm, held to each other and to brute force.

Every graph is small enough for brute force.  CP-SAT, the ILP with HiGHS and with CBC, and MODeL's published form must
find the optimum and prove it, with and without a warm start.  On series-parallel graphs without shared buffers the
polynomial algorithm must say the same as all of them.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable

from memsched.check.error import CheckError
from memsched.check.order import check_order
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Status
from memsched.search.models.child import SOLVERS, ChildSolver
from memsched.search.models.model import ModelError, ModelLimits
from memsched.series_parallel.shared import solve_series_parallel
from tests.oracle import brute_force_peak, random_graphs

COUNT = 10_000
_LARGEST = 9


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, object]:
    """`count` graphs through every solver; "wrong" counts answers that are invalid, not optimal, or not proved."""
    wrong: Counter[str] = Counter()
    by_tree = 0
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        children = {name: stack.enter_context(ChildSolver(name)) for name in SOLVERS}
        for done, graph in enumerate(random_graphs(count, seed, largest=_LARGEST), 1):
            optimum = brute_force_peak(graph)
            warm = rng.random() < 0.5
            for name, child in children.items():
                wrong[name] += not is_right(child, graph, optimum, warm)
            schedule = solve_series_parallel(graph)
            if schedule is not None and schedule.status is Status.OPTIMAL:
                by_tree += 1
                wrong["series-parallel"] += schedule.peak != optimum
            progress(done)
    return {"instances": count, "wrong": sum(wrong.values()), "wrong_by": dict(wrong), "optimal_by_tree": by_tree}


def is_right(child: ChildSolver, graph: Graph, optimum: int, warm: bool) -> bool:
    """Whether the solver finds the optimum and proves it."""
    incumbent = graph.topological_order if warm else None
    try:
        answer = child.solve(graph, incumbent, max(graph.start_bytes, graph.end_bytes), ModelLimits(seconds=60))
        if answer.order is None:
            # nothing better than the warm start exists
            return incumbent is not None and answer.lower_bound == peak_bytes(graph, incumbent) == optimum
        check_order(graph, answer.order)
    except (ModelError, CheckError):
        return False
    return answer.finished and answer.lower_bound == peak_bytes(graph, answer.order) == optimum

"""The ordering problem given to an integer solver through PuLP: the program of `formulation`, HiGHS or CBC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from memsched.core.graph import Graph
from memsched.search.models.cbc import solve_cbc
from memsched.search.models.formulation import Formulation
from memsched.search.models.highs import solve_highs
from memsched.search.models.model import ModelAnswer, ModelError, ModelLimits, ModelTooLarge, sequencing

__all__ = ["Backend", "solve_ilp"]

Backend = Literal["highs", "cbc"]

_LARGEST_TOTAL = 1_000_000
"""Units that may add up: with tolerances of 1e-9 the sum of a step is then off by less than 0.01 units."""


def solve_ilp(
    graph: Graph,
    incumbent: Sequence[int] | None,
    floor: int,
    limits: ModelLimits,
    report: Callable[[ModelAnswer], None] = lambda answer: None,
    backend: Backend = "highs",
    as_published: bool = False,
) -> ModelAnswer:
    """The best order and bound that HiGHS or CBC finds.

    incumbent: a topological order, the warm start and the upper limit, or None.
    floor: bytes, a proved lower bound; the search ends when it is met.
    report: called with everything new while the search runs (HiGHS only: CBC answers at its end).
    as_published: MODeL's constraints, without floor and incumbent.
    Raises ModelError when PuLP or the backend is missing or fails.
    """
    try:
        import pulp
    except ImportError as error:
        raise ModelError(f"PuLP is not installed ({error})") from None
    if as_published:
        incumbent, floor = None, 0
    problem = sequencing(graph, _LARGEST_TOTAL)
    num_variables = len(graph.ops) * (len(graph.ops) + len(graph.buffers))
    if num_variables > limits.variables:
        raise ModelTooLarge(f"{num_variables} variables, the limit is {limits.variables}")
    model = Formulation(pulp, problem, incumbent, floor, as_published)
    match backend:
        case "highs":
            return solve_highs(pulp, model, limits, report)
        case "cbc":
            return solve_cbc(pulp, model, limits)
    raise ModelError(f"backend {backend!r} is unknown")

"""The most bytes that any parallel execution of a graph holds: what was found, what is proved, and by what.

    worst_case(graph, parallel=2)     at most two ops at once        WorstCase(held=14, bound=14, status optimal)
    worst_case(graph, parallel=None)  any number

First the relaxation (`relaxation.py`, polynomial): where its own execution holds its bound, that is the answer, with a
proof that `memsched.check.execution` follows.  What is left open is given to CP-SAT (`program.py`), whose bound rests
on its search.
"""

from __future__ import annotations

from dataclasses import replace

from memsched.core.execution import WorstCase
from memsched.core.graph import Graph
from memsched.core.sizes import InputError
from memsched.search.models.model import ModelError
from memsched.search.parallel.program import search_executions
from memsched.search.parallel.relaxation import Relaxation, most_bytes_running

__all__ = ["relaxed_worst_case", "searched_worst_case", "worst_case"]


def worst_case(graph: Graph, parallel: int | None, seconds: float = 10.0) -> WorstCase:
    """The worst case over all executions with at most `parallel` ops at once (None: any number).

    seconds: what the search may spend behind the relaxation, in CP-SAT's deterministic time.  Without OR-Tools the
    answer is what the relaxation gives, and says so in its `note`.
    Raises InputError unless `parallel` is at least 1.
    """
    return searched_worst_case(graph, relaxed_worst_case(graph, parallel), seconds)


def searched_worst_case(graph: Graph, found: WorstCase, seconds: float) -> WorstCase:
    """What a search adds to `found`, which minimum cuts said of `graph`."""
    if found.held == found.bound or not seconds:
        return found
    try:
        answer = search_executions(graph, found.parallel, found.execution, found.held, found.bound, seconds)
    except ModelError as error:
        return replace(found, note=str(error))
    held, execution = found.held, found.execution
    if answer.execution is not None:
        held, execution = most_bytes_running(graph, answer.execution, found.parallel)
    by_search = answer.bound < found.bound
    method = "search" if by_search or held > found.held else found.method
    return WorstCase(found.parallel, execution, held, min(found.bound, answer.bound), found.certificate, method)


def relaxed_worst_case(graph: Graph, parallel: int | None) -> WorstCase:
    """What minimum cuts alone say.  Raises InputError unless `parallel` is at least 1."""
    _check_parallel(parallel)
    relaxed = Relaxation(graph).bound(parallel)
    held, execution = most_bytes_running(graph, relaxed.execution, parallel)
    return WorstCase(parallel, execution, held, relaxed.bound, relaxed.certificate, "minimum cut")


def _check_parallel(parallel: int | None) -> None:
    """Raises InputError unless at least one op may run."""
    if parallel is not None and parallel < 1:
        raise InputError(f"parallel: {parallel} ops at once; at least 1")

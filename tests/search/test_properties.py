"""The solver against brute force, on graphs that shrink: a counter-example comes out as small as it can be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from memsched.check.certificate import check_certificate
from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.core.result import Status
from memsched.search.solver import solve
from tests.oracle import brute_force_peak


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to seven ops in a legal order; each buffer has a writer before all its readers, or none."""
    count = draw(st.integers(1, 7))
    ops = tuple(Op(f"op{index}", workspace=draw(st.integers(0, 3))) for index in range(count))
    buffers = []
    for index in range(draw(st.integers(0, 9))):
        producer = draw(st.one_of(st.none(), st.integers(0, count - 1)))
        first = 0 if producer is None else producer + 1
        readers = draw(st.sets(st.integers(first, count - 1), max_size=3)) if first < count else set()
        if producer is None and not readers:
            continue
        kept = draw(st.booleans())
        buffers.append(Buffer(f"b{index}", draw(st.integers(1, 9)), producer, tuple(sorted(readers)), kept))
    return Graph("drawn", ops, tuple(buffers))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(graphs())
def test_the_answer_is_valid_never_below_its_bound_and_optimal_where_it_says_so(graph: Graph) -> None:
    schedule = solve(graph)
    check_order(graph, schedule.order)
    best = brute_force_peak(graph)
    assert schedule.lower_bound <= best <= schedule.peak == peak_bytes(graph, schedule.order)
    assert schedule.status is not Status.OPTIMAL or schedule.peak == best
    check_certificate(graph, schedule.certificate, schedule.lower_bound)

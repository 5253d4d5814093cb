"""Checkers.  They share no code with what they check, and need neither torch nor a solver.

    check_order        an order is a permutation of the ops and respects every precedence
    check_certificate  any certificate against a graph; says whether the bound is now *proved* or only *claimed*

Minimum cuts and forced precedences are checked in `memsched.core.check_cut`, series-parallel trees in
`memsched.core.check_tree`, forbidden subgraphs in `memsched.core.check_obstruction`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memsched.core.check_cut import CheckError, check_cut, check_forcing
from memsched.core.check_tree import check_tree_bound
from memsched.core.graph import Graph
from memsched.core.result import (
    Certificate,
    CutCertificate,
    EndpointCertificate,
    ForcingCertificate,
    StatementCertificate,
    TreeCertificate,
)

__all__ = ["CheckError", "check_certificate", "check_cut", "check_order"]


def check_order(graph: Graph, order: Sequence[int]) -> None:
    """Raises CheckError unless `order` is a topological order of `graph`."""
    position: dict[int, int] = {}
    for at, op in enumerate(order):
        if not isinstance(op, int) or not 0 <= op < len(graph.ops):
            raise CheckError(f"order: entry {at} is {op!r}, not an op (there are {len(graph.ops)})")
        if op in position:
            raise CheckError(f"order: op {graph.ops[op].name!r} occurs twice")
        position[op] = at
    if len(position) < len(graph.ops):
        missing = next(op for op in range(len(graph.ops)) if op not in position)
        raise CheckError(f"order: op {graph.ops[missing].name!r} is missing")
    for before, after in _precedences(graph):
        if position[before] > position[after]:
            names = graph.ops[before].name, graph.ops[after].name
            raise CheckError(f"order: op {names[1]!r} runs before {names[0]!r}, which it needs")


def check_certificate(graph: Graph, certificate: Certificate | None, bound: int) -> bool:
    """True when `certificate` proves that no order of `graph` peaks below `bound` bytes; False when it only says so.

    Raises CheckError when the certificate is wrong or proves less than `bound`.
    """
    if certificate is None:
        return bound == 0
    if certificate.bound < bound:
        raise CheckError(f"certificate: proves {certificate.bound} bytes, the plan claims a bound of {bound}")
    match certificate:
        case EndpointCertificate():
            proved = max(graph.start_bytes, graph.end_bytes)
            if certificate.bound > proved:
                raise CheckError(f"certificate: start and end prove {proved} bytes, not {certificate.bound}")
            return True
        case CutCertificate():
            check_cut(graph, certificate)
            return True
        case ForcingCertificate():
            check_forcing(graph, certificate)
            return True
        case TreeCertificate():
            try:
                check_tree_bound(graph, certificate)
            except ValueError as error:
                raise CheckError(f"certificate: {error}") from None
            return True
        case StatementCertificate():
            return False


def _precedences(graph: Graph) -> Iterable[tuple[int, int]]:
    """Every (before, after) that the graph states, straight from its buffers and order edges."""
    for buffer in graph.buffers:
        if buffer.producer is not None:
            for consumer in buffer.consumers:
                yield buffer.producer, consumer
    yield from graph.order_edges

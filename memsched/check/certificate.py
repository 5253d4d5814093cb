"""Any certificate against a graph: is the bound now *proved*, or only *claimed*?

    start, end         the bytes that are alive before and after every order       proved here
    cut, forcing       minimum cuts and forced precedences                         `memsched.check.cut`
    tree               a series-parallel tree, folded again                        `memsched.check.tree`
    statement          what a solver said                                          claimed: nothing to follow

The checkers share no code with what they check, and need neither torch nor a solver.
"""

from __future__ import annotations

from memsched.check.cut import check_cut, check_forcing
from memsched.check.error import CheckError
from memsched.check.tree import check_tree_bound
from memsched.core.graph import Graph
from memsched.core.result import (
    Certificate,
    CutCertificate,
    EndpointCertificate,
    ForcingCertificate,
    StatementCertificate,
    TreeCertificate,
)

__all__ = ["check_certificate"]


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

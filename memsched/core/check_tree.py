"""Checkers of series-parallel decomposition trees and of forbidden subgraphs (to be written with the recogniser)."""

from __future__ import annotations

from memsched.core.graph import Graph
from memsched.core.result import TreeCertificate

__all__ = ["check_tree_bound"]


def check_tree_bound(graph: Graph, certificate: TreeCertificate) -> None:
    """Raises ValueError unless the tree rebuilds the graph and its segments prove the bound."""
    raise ValueError("tree certificates are not supported yet")

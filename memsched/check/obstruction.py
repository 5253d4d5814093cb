"""Checkers of the two subgraphs that forbid a series-parallel decomposition.

They share no code with the recogniser, which finds them, and take precedences straight from the graph.

    check_induced_n    four ops are an N in the order of the graph          a ──> c      no other pair is ordered
                                                                              ╲
                                                                            b ──> d

    check_bridge       five paths are a subdivision of the Wheatstone       b ───> d
                       bridge in the network of precedences               ↗ │    ↗
                                                                         a  ↓  ╱
                                                                          ↘ c ╯

Claim: an order with an N is not series-parallel; a network with a subdivided bridge is not two-terminal
series-parallel (Valdes, Tarjan, Lawler 1982).  Both checks are linear.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from memsched.check.order import network_of, precedences_of
from memsched.core.graph import Graph

__all__ = ["check_bridge", "check_induced_n"]


def check_induced_n(graph: Graph, a: int, b: int, c: int, d: int) -> None:
    """Raises ValueError unless a precedes c and d, b precedes d, and no other two of the four are ordered.  Linear."""
    named = {"a": a, "b": b, "c": c, "d": d}
    for name, op in named.items():
        if not 0 <= op < len(graph.ops):
            raise ValueError(f"N: {name} is {op}, not an op")
    if len(set(named.values())) < 4:
        raise ValueError("N: its ops are not distinct")
    after: dict[int, list[int]] = {}
    for before, op in precedences_of(graph):
        after.setdefault(before, []).append(op)
    for first, one in named.items():
        reached = _reached(one, after)
        for second, other in named.items():
            wanted = (first, second) in (("a", "c"), ("a", "d"), ("b", "d"))
            if first != second and wanted != (other in reached):
                raise ValueError(f"N: {first} = op {one} {'does not precede' if wanted else 'precedes'} {second}")


def check_bridge(graph: Graph, corners: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
    """Raises ValueError unless `paths` are a subdivision of the Wheatstone bridge in the network of `graph`.

    With corners a, b, c, d the paths lead a..b, a..c, b..c, b..d, c..d along arcs and share nothing but corners.
    """
    if len(set(corners)) != 4 or len(corners) != 4 or len(paths) != 5:
        raise ValueError("bridge: it has four distinct corners and five paths")
    a, b, c, d = corners
    arcs = set(network_of(graph))
    used = set(corners)
    for path, (first, last) in zip(paths, ((a, b), (a, c), (b, c), (b, d), (c, d)), strict=True):
        if len(path) < 2 or path[0] != first or path[-1] != last:
            raise ValueError(f"bridge: the path {list(path)} does not lead from {first} to {last}")
        for arc in itertools.pairwise(path):
            if arc not in arcs:
                raise ValueError(f"bridge: {arc[0]} -> {arc[1]} is not an arc")
        for vertex in path[1:-1]:
            if vertex in used:
                raise ValueError(f"bridge: two paths meet in {vertex}")
            used.add(vertex)


def _reached(op: int, after: dict[int, list[int]]) -> set[int]:
    reached: set[int] = set()
    stack = list(after.get(op, ()))
    while stack:
        other = stack.pop()
        if other not in reached:
            reached.add(other)
            stack.extend(after.get(other, ()))
    return reached

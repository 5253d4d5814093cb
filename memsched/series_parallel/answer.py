"""Whether a graph is series-parallel, in one line for a report: tree depth, or the four ops that forbid a tree.

a ──> b ──> d,  a ──> c ──> d       yes: a, then b beside c, then d: depth 2
a ──> c,  a ──> d,  b ──> d         no: a, b, c, d are an N
"""

from __future__ import annotations

from memsched.core.graph import Graph
from memsched.records.report import SeriesParallel
from memsched.series_parallel.recognize import Decomposition, recognize
from memsched.series_parallel.tree import tree_depth

__all__ = ["series_parallel_answer"]


def series_parallel_answer(graph: Graph) -> SeriesParallel:
    """The depth of the decomposition tree of `graph`, or the names of an induced N; O((ops + precedences) log ops)."""
    found = recognize(graph)
    if isinstance(found, Decomposition):
        return SeriesParallel(tree_depth(found.tree))
    return SeriesParallel(None, tuple(graph.ops[op].name for op in (found.a, found.b, found.c, found.d)))

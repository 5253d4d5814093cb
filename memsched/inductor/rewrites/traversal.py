"""The nodes of a traced graph so that each comes after those that it reads.

A joint graph need not be in such an order while Inductor's passes change it: the attention pattern puts its fused
operator where the first of the operators was that it replaces, before a gradient that it reads.
"""

from __future__ import annotations

from torch import fx

__all__ = ["inputs_first"]


def inputs_first(graph: fx.Graph) -> list[fx.Node]:
    """All nodes, each after what it reads; in the graph's own order wherever that is one."""
    placed: dict[fx.Node, None] = {}
    for node in graph.nodes:
        waiting = [node]
        while waiting:
            missing = [source for source in waiting[-1].all_input_nodes if source not in placed]
            if missing:
                waiting += reversed(missing)
            else:
                placed.setdefault(waiting.pop())
    return list(placed)

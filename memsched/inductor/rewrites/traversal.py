"""The nodes of a traced graph so that each comes after those that it reads, and what depends on which.

A joint graph need not be in such an order while Inductor's passes change it: the attention pattern puts its fused
operator where the first of the operators was that it replaces, before a gradient that it reads.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

__all__ = ["depending_on", "inputs_first", "sort_nodes", "tangents_of"]


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


def sort_nodes(graph: fx.Graph) -> None:
    """Move nodes to where what they read stands before them; a graph that is in such an order stays as it is."""
    end = graph.output_node()
    for node in inputs_first(graph):
        if node is not end:
            end.prepend(node)


def tangents_of(graph: fx.Graph) -> list[fx.Node]:
    """The gradients of the outputs of a joint graph: where its backward begins."""
    return [node for node in graph.find_nodes(op="placeholder") if "tangents" in str(node.target)]


def depending_on(graph: fx.Graph, first: Iterable[fx.Node]) -> set[fx.Node]:
    """All nodes that depend on one of `first`, and those."""
    found = set(first)
    for node in inputs_first(graph):
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found

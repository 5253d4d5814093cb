"""A sum is computed where it is defined, if that lets its terms go.

Inductor inlines elementwise operators into every reader, until one would read more than four buffers
(`realize_reads_threshold`).  Along a residual stream each reader then adds the terms up again, and all of them stay
alive, where the sum alone would do:

    x ──┬───────────────┬────────────────┐       inlined:   x, h1 and h2 live until the last reader of s2
    h1 ─┴─> s1 ──> … h2 ┴─> s2 ──> …     │       realized:  s1, then s2; a term dies where it is added
                                         │
                                  the readers of s2

Elsewhere it would cost: where the terms live on anyway, the sum would lie beside them.  So a result is realized where
the terms that only it keeps alive are larger than it is.  The order of the traced graph stands for the order in which
they will run.

Claim: the estimated peak is lower by a fiftieth or more.  The real one may not be, since the estimate knows neither
fused kernels nor what is written in place: a step whose estimate fell by a fifth came out above stock
(`tests/inductor/test_lowered_twice.py`).  So memsched's own compile plans such a graph both ways
(`memsched.inductor.lowered_twice`).
"""

from __future__ import annotations

from torch import fx

from memsched.inductor.estimate import estimated_peak
from memsched.inductor.rewrites.inlining import Inlining, readers_of
from memsched.inductor.rewrites.nodes import bytes_of, is_static
from memsched.inductor.rewrites.realize import realized

__all__ = ["realize_sums"]

_LEAST_GAIN = 0.02
"""Share of the estimated peak by which it must fall, to be worth a second plan."""


def realize_sums(graph: fx.Graph) -> list[fx.Node]:
    """Mark the elementwise results that are to be computed where they are defined; returns what their readers see.

    graph: of ATen operators in a legal order.
    """
    inlining = Inlining(graph)
    made = []
    for node in list(graph.nodes):
        if inlining.is_inlined(node) and _frees_more_than_it_takes(inlining, node):
            inlining.realize(node)
            made.append(node)
    if not made:
        return []
    before = estimated_peak(graph)
    seen = [realized(graph, node) for node in made]
    if estimated_peak(graph) > (1 - _LEAST_GAIN) * before:
        for node in seen:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        return []
    return seen


def _frees_more_than_it_takes(inlining: Inlining, node: fx.Node) -> bool:
    """Whether the buffers that only the readers of `node` keep alive are larger than its result."""
    if not is_static(node) or not inlining.kernels_between(node, inlining.last_read(node)):
        return False
    released = [one for one in inlining.reads(node) if is_static(one) and _would_die(inlining, one, node)]
    return sum(map(bytes_of, released)) > bytes_of(node)


def _would_die(inlining: Inlining, buffer: fx.Node, node: fx.Node) -> bool:
    """Whether nothing but the readers of `node` reads `buffer` behind it."""
    if buffer in inlining.held or any(reader.op == "output" for reader in readers_of(buffer)):
        return False
    return inlining.last_read(buffer, without=node) <= inlining.place[node]

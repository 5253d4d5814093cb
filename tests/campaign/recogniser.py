"""Recogniser campaign: graphs composed in series and in parallel are accepted, the same with an obstruction refused.

Every tree and every witness goes through the checkers of `memsched.core`, which share no code with the recogniser.
Of each hundred graphs two have 50 to 300 ops, the others 4 to 20.  Instances alternate:

    composed order      a random series-parallel order on randomly numbered ops, with some transitive precedences
    composed network    a single edge grown by subdividing and doubling
    obstructed order    the order, with one op replaced by an N of four
    obstructed network  the network, with one edge replaced by a Wheatstone bridge, then grown further
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from memsched.check.obstruction import check_bridge, check_induced_n
from memsched.check.tree import check_decomposition, check_two_terminal
from memsched.core.graph import Buffer, Graph, Op
from memsched.series_parallel.recognize import (
    Bridge,
    Decomposition,
    InducedN,
    TwoTerminalDecomposition,
    recognize,
    recognize_two_terminal,
)
from memsched.series_parallel.tree import to_json

Edge = tuple[int, int]
Part = tuple[list[int], list[int]]
N_EDGES = ((0, 2), (0, 3), (1, 3))
BRIDGE_INNER = 2
COUNT = 100_000


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, int]:
    """`count` composed and `count` obstructed graphs; how many were answered wrongly or with a faulty certificate."""
    rng = random.Random(seed)
    figures = {"instances": 2 * count, "wrong": 0, "accepted": 0, "refused": 0, "largest": 0}
    for done in range(count):
        num_ops = rng.randint(50, 300) if done % 50 == 0 else rng.randint(4, 20)
        for obstructed in (False, True):
            if done % 2:
                graph = composed_order(rng, num_ops, obstructed)
                right = order_is_right(graph, obstructed)
            else:
                graph = composed_network(rng, num_ops, obstructed)
                right = network_is_right(graph, obstructed)
            figures["wrong"] += not right
            figures["refused" if obstructed else "accepted"] += right
            figures["largest"] = max(figures["largest"], len(graph))
        progress(done + 1)
    return figures


def order_is_right(graph: Graph, obstructed: bool) -> bool:
    """Whether `recognize` gives the answer that the construction implies, with a certificate that holds."""
    found = recognize(graph)
    try:
        if isinstance(found, InducedN):
            check_induced_n(graph, found.a, found.b, found.c, found.d)
        else:
            check_decomposition(graph, to_json(found.tree))
    except ValueError:
        return False
    return isinstance(found, InducedN if obstructed else Decomposition)


def network_is_right(graph: Graph, obstructed: bool) -> bool:
    """The same for `recognize_two_terminal`."""
    found = recognize_two_terminal(graph)
    try:
        if isinstance(found, Bridge):
            check_bridge(graph, found.corners, found.paths)
        else:
            check_two_terminal(graph, found.arcs, to_json(found.tree))
    except ValueError:
        return False
    return isinstance(found, Bridge if obstructed else TwoTerminalDecomposition)


def composed_order(rng: random.Random, num_ops: int, obstructed: bool) -> Graph:
    """Random series and parallel compositions; `obstructed` puts an N in the place of one op."""
    edges: list[Edge] = []
    parts: list[Part] = [([op], [op]) for op in range(num_ops)]
    if obstructed:
        edges += N_EDGES
        parts[:4] = [([0, 1], [2, 3])]
    rng.shuffle(parts)
    while len(parts) > 1:
        taken = [parts.pop(rng.randrange(len(parts))) for _ in range(min(len(parts), rng.choice((2, 2, 2, 3, 4))))]
        if rng.random() < 0.5:
            for (_, last), (first, _) in itertools.pairwise(taken):
                edges += itertools.product(last, first)
            parts.append((taken[0][0], taken[-1][1]))
        else:
            firsts, lasts = zip(*taken, strict=True)
            parts.append((list(itertools.chain(*firsts)), list(itertools.chain(*lasts))))
    return _graph(rng, num_ops, edges + _shortcuts(rng, num_ops, edges))


def composed_network(rng: random.Random, num_ops: int, obstructed: bool) -> Graph:
    """A network grown from one edge, op 0 to op 1; `obstructed` replaces an edge by a Wheatstone bridge on the way."""
    edges: list[Edge] = [(0, 1)]
    new = 2
    bridge_at = rng.randrange(2, num_ops - BRIDGE_INNER + 1) if obstructed else -1
    while new < num_ops:
        at = rng.randrange(len(edges))
        before, after = edges[at]
        if new == bridge_at:
            left, right = new, new + 1
            edges[at] = (before, left)
            edges += [(before, right), (left, right), (left, after), (right, after)]
            new += BRIDGE_INNER
            continue
        if rng.random() < 0.5:
            edges[at] = (before, new)
        else:
            edges.append((before, new))
        edges.append((new, after))
        new += 1
    return _graph(rng, num_ops, edges)


def _shortcuts(rng: random.Random, num_ops: int, edges: list[Edge]) -> list[Edge]:
    """Some precedences that others imply."""
    after: dict[int, list[int]] = {}
    for before, op in edges:
        after.setdefault(before, []).append(op)
    found = []
    for _ in range(rng.randint(0, num_ops // 3)):
        start = op = rng.randrange(num_ops)
        for _ in range(rng.randint(2, 4)):
            op = rng.choice(after.get(op, [op]))
        if op != start:
            found.append((start, op))
    return found


def _graph(rng: random.Random, num_ops: int, edges: list[Edge]) -> Graph:
    """A graph of the edges on ops that are numbered at random; some edges carry a buffer, the others order only."""
    number = rng.sample(range(num_ops), num_ops)
    renamed = sorted({(number[before], number[after]) for before, after in edges})
    order_edges = tuple(edge for edge in renamed if rng.random() < 0.3)
    rest = sorted(set(renamed) - set(order_edges))
    buffers = tuple(Buffer(f"b{before}_{after}", 1, before, (after,)) for before, after in rest)
    return Graph("composed", tuple(Op(f"op{op}") for op in range(num_ops)), buffers, order_edges)

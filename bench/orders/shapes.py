"""Graphs of one shape and any size: a chain, a fan, layers, series and parallel.  Sizes are drawn from a fixed seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from memsched.core.graph import Buffer, Graph, Op

__all__ = ["SHAPES", "chain", "grow_network", "layered", "ragged", "series_parallel", "wide"]


def chain(num_ops: int) -> Graph:
    """0 ──> 1 ──> 2 ──> ... with a kept output now and then."""
    rng = random.Random(1)
    buffers = [Buffer(f"b{op}", rng.randint(1, 1000), op, (op + 1,)) for op in range(num_ops - 1)]
    buffers += [Buffer(f"k{op}", rng.randint(1, 1000), op, (), True) for op in range(0, num_ops, 50)]
    return Graph("chain", tuple(Op(f"op{op}") for op in range(num_ops)), tuple(buffers))


def wide(num_ops: int) -> Graph:
    """0 ──> 1, 2, 3, ... ──> n-1: all between are ready at once."""
    rng = random.Random(2)
    last = num_ops - 1
    buffers = [Buffer("b0", 1000, 0, tuple(range(1, last)))]
    buffers += [Buffer(f"b{op}", rng.randint(1, 1000), op, (last,)) for op in range(1, last)]
    return Graph("wide", tuple(Op(f"op{op}", "", op % 7) for op in range(num_ops)), tuple(buffers))


def layered(num_ops: int, width: int = 20) -> Graph:
    """Layers of `width` ops; each op reads the outputs of two or three ops of the layer before."""
    rng = random.Random(3)
    readers: list[set[int]] = [set() for _ in range(num_ops)]
    for op in range(width, num_ops):
        layer = op // width
        for before in rng.sample(range((layer - 1) * width, layer * width), rng.choice([2, 3])):
            readers[before].add(op)
    buffers = [Buffer(f"b{op}", rng.randint(1, 1000), op, tuple(sorted(readers[op]))) for op in range(num_ops)]
    return Graph("layered", tuple(Op(f"op{op}") for op in range(num_ops)), tuple(buffers))


def ragged(num_ops: int) -> Graph:
    """Each op is read by up to three of the hundred ops after it."""
    rng = random.Random(17)
    last = num_ops - 1
    readers = [{min(last, op + rng.randint(1, 100)) for _ in range(3)} - {op} for op in range(num_ops)]
    buffers = [Buffer(f"b{op}", rng.randint(1, 1000), op, tuple(sorted(readers[op]))) for op in range(num_ops)]
    return Graph("ragged", tuple(Op(f"op{op}") for op in range(num_ops)), tuple(buffers))


def series_parallel(num_ops: int) -> Graph:
    """A two-terminal series-parallel graph: edges are subdivided, or doubled by a path, at random; a buffer on each."""
    rng = random.Random(4)
    edges = [(0, 1)]
    grow_network(rng, edges, range(2, num_ops), rng.randrange)
    buffers = [Buffer(f"b{at}", rng.randint(1, 1000), before, (after,)) for at, (before, after) in enumerate(edges)]
    return Graph("series-parallel", tuple(Op(f"op{op}") for op in range(num_ops)), tuple(buffers))


def grow_network(
    rng: random.Random, edges: list[tuple[int, int]], new_ops: Iterable[int], pick: Callable[[int], int]
) -> None:
    """Put each new op on an edge of a two-terminal network, or on a path beside it; `pick(count)` chooses the edge."""
    for new in new_ops:
        at = pick(len(edges))
        before, after = edges[at]
        if rng.random() < 0.5:
            edges[at] = (before, new)
        else:
            edges.append((before, new))
        edges.append((new, after))


SHAPES: dict[str, Callable[[int], Graph]] = {
    "chain": chain,
    "wide": wide,
    "layered": layered,
    "ragged": ragged,
    "series-parallel": series_parallel,
}
"""Every shape by its name."""

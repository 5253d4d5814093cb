"""How the series-parallel algorithm scales: seconds to recognise and to order graphs of 1,000 to 100,000 ops.

    python -m bench series-parallel-scale [--largest N] [--repeats K] [--output FOLDER]

Prints a table and writes it as seconds.csv, with a picture, seconds.png, to bench/results/series_parallel_scale/.
Times are process CPU seconds of one thread, the least of K runs; building the `Graph` is not counted.  Every order is
checked, its peak is computed by `memsched.core.peak`, and it must equal the bound (no buffer is shared).

Shapes, all series-parallel, each with sizes that put stress on another part:

    uniform       a single edge grown by subdividing or doubling a random edge
    deep          the same, at one of the newest edges: nests thousands deep
    redundant     uniform, plus as many transitive order edges as half of the ops
    caterpillar   a, then (b beside (c, then (d beside ...))): one nest per two ops, with long segment lists
    skewed        chains of segments that cannot be fused, beside each other in nests that lean to one side
    blocks        layers of 2 to 8 ops, complete bipartite between neighbours, in parallel branches
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import paths
from bench.orders.shapes import grow_network
from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.series_parallel.order import order_series_parallel
from memsched.series_parallel.recognize import Decomposition, recognize
from memsched.series_parallel.tree import tree_depth

Edge = tuple[int, int]
COLUMNS = ("shape", "ops", "precedences", "depth", "recognise_s", "order_s", "total_s", "us_per_op", "peak", "incoming")
RESULTS = paths.RESULTS / "series_parallel_scale"


def grown_edges(rng: random.Random, num_ops: int, newest: float | None = None) -> list[Edge]:
    """A two-terminal network without its terminals: subdivide or double a random edge, or one of the newest."""

    def pick(count: int) -> int:
        back = int(rng.expovariate(1 / newest)) if newest else rng.randrange(count)
        return max(0, count - 1 - back)

    edges: list[Edge] = [(-1, -2)]
    grow_network(rng, edges, range(num_ops), pick)
    return [edge for edge in edges if min(edge) >= 0]


def redundant_edges(rng: random.Random, num_ops: int) -> list[Edge]:
    """`grown_edges` and random shortcuts along walks of two to six edges."""
    edges = grown_edges(rng, num_ops)
    after: list[list[int]] = [[] for _ in range(num_ops)]
    for before, op in edges:
        after[before].append(op)
    for _ in range(num_ops // 2):
        start = op = rng.randrange(num_ops)
        for _ in range(rng.randint(2, 6)):
            op = rng.choice(after[op]) if after[op] else op
        if op != start:
            edges.append((start, op))
    return edges


def caterpillar_edges(_: random.Random, num_ops: int) -> list[Edge]:
    """Even ops form a chain; each odd op follows the even op before it and nothing waits for it."""
    return [(op - 2 + op % 2, op) for op in range(1, num_ops)]


def skewed_edges(_: random.Random, num_ops: int) -> list[Edge]:
    """A spine; every op of the spine starts a chain of sqrt(n) ops beside the rest of the spine."""
    length = math.isqrt(num_ops)
    edges: list[Edge] = []
    for spine in range(0, num_ops, length):
        edges += [(op - 1, op) for op in range(spine + 1, min(spine + length, num_ops))]
        if spine:
            edges.append((spine - length, spine))
    return edges


def block_edges(rng: random.Random, num_ops: int) -> list[Edge]:
    """Branches of about 200 ops, each a sequence of layers with all edges between neighbours."""
    edges: list[Edge] = []
    op = 0
    while op < num_ops:
        branch_end = min(num_ops, op + rng.randint(100, 300))
        layer: list[int] = []
        while op < branch_end:
            following = list(range(op, min(branch_end, op + rng.randint(2, 8))))
            edges += [(before, after) for before in layer for after in following]
            op, layer = following[-1] + 1, following
    return edges


SHAPES: dict[str, Callable[[random.Random, int], list[Edge]]] = {
    "uniform": grown_edges,
    "deep": lambda rng, num_ops: grown_edges(rng, num_ops, newest=3),
    "redundant": redundant_edges,
    "caterpillar": caterpillar_edges,
    "skewed": skewed_edges,
    "blocks": block_edges,
}


def scaled_graph(shape: str, num_ops: int, seed: int) -> Graph:
    """A graph of the shape: one buffer of random size for each precedence, an input or an output at the ends."""
    rng = random.Random(seed)
    edges = SHAPES[shape](rng, num_ops)
    rank = _ranks(edges, num_ops)
    buffers: list[Buffer] = []
    starts, ends = set(range(num_ops)), set(range(num_ops))
    for before, after in edges:
        starts.discard(after)
        ends.discard(before)
        buffers.append(Buffer(f"b{len(buffers)}", rng.randint(1, 1000), rank[before], (rank[after],)))
    buffers += [Buffer(f"in{op}", rng.randint(1, 1000), None, (rank[op],)) for op in sorted(starts)]
    buffers += [Buffer(f"out{op}", rng.randint(1, 1000), rank[op], (), True) for op in sorted(ends)]
    ops = tuple(Op(f"op{op}", workspace=rng.randint(0, 300)) for op in range(num_ops))
    return Graph(f"{shape} {num_ops}", ops, tuple(buffers))


def _ranks(edges: Sequence[Edge], num_ops: int) -> list[int]:
    """New indices in which every edge goes up."""
    after: list[list[int]] = [[] for _ in range(num_ops)]
    missing = [0] * num_ops
    for before, op in edges:
        after[before].append(op)
        missing[op] += 1
    order = [op for op in range(num_ops) if not missing[op]]
    for op in order:
        for other in after[op]:
            missing[other] -= 1
            if not missing[other]:
                order.append(other)
    rank = [0] * num_ops
    for at, op in enumerate(order):
        rank[op] = at
    return rank


def measure(shape: str, num_ops: int, repeats: int, seed: int = 3) -> dict[str, object]:
    """One row of the table.  Raises AssertionError when the graph is refused, or the order is not what it should be."""
    graph = scaled_graph(shape, num_ops, seed)
    recognise_s, order_s = [], []
    for _ in range(repeats):
        fresh = Graph(graph.name, graph.ops, graph.buffers)  # without cached properties
        started = time.process_time()
        found = recognize(fresh)
        recognised = time.process_time()
        assert isinstance(found, Decomposition), f"{graph.name} was refused"
        order, bound = order_series_parallel(fresh, found.tree)
        recognise_s.append(recognised - started)
        order_s.append(time.process_time() - recognised)
    check_order(graph, order)
    peak = peak_bytes(graph, order)
    assert peak == bound, f"{graph.name}: peak {peak}, bound {bound}"
    total = min(map(sum, zip(recognise_s, order_s, strict=True)))
    precedences = sum(map(len, graph.predecessors))
    values = (
        *(shape, num_ops, precedences, tree_depth(found.tree)),
        *(round(min(recognise_s), 4), round(min(order_s), 4), round(total, 4), round(total / num_ops * 1e6, 2)),
        *(peak, peak_bytes(graph, range(num_ops))),
    )
    return dict(zip(COLUMNS, values, strict=True))


def draw(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Seconds over ops, both logarithmic, one line for each shape, with the limit of 3 s at 100,000 ops."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for shape in SHAPES:
        line = [row for row in rows if row["shape"] == shape]
        axes.loglog([row["ops"] for row in line], [row["total_s"] for row in line], marker="o", label=shape)
    axes.loglog([1_000, 100_000], [0.03, 3], "k--", linewidth=1, label="linear, through 3 s at 100,000")
    axes.set_xlabel("ops")
    axes.set_ylabel("CPU seconds, recognise + order")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all shapes and sizes, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--largest", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sizes = [size for size in (1_000, 3_000, 10_000, 30_000, 100_000) if size <= options.largest]
    rows = []
    print(" ".join(f"{name:>12}" for name in COLUMNS))
    for shape in SHAPES:
        for size in sizes:
            rows.append(measure(shape, size, options.repeats))
            print(" ".join(f"{value!s:>12}" for value in rows[-1].values()), flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    with open(options.output / "seconds.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, options.output / "seconds.png")

"""Random graphs of every kind that matters, and the slow obvious optimum that all methods are held to.

`brute_force_peak` is Dijkstra over all down-sets with its own idea of live bytes: it shares no code with memsched.
`most_bytes_of_executions` tries every moment of every parallel run, `replayed_peak` one order, of ops or of kernels.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator, Sequence

from memsched.core.graph import Buffer, Graph, Op

KINDS = ("in_tree", "out_tree", "two_terminal", "vertex_series_parallel", "general")
Edge = tuple[int, int]


def brute_force_peak(graph: Graph) -> int:
    """The optimum: least peak over all topological orders.  Exponential; for graphs of up to about 14 ops."""
    n = len(graph.ops)
    full = (1 << n) - 1
    before = _predecessor_masks(graph)
    hump = [op.workspace + sum(b.size for b in graph.buffers if b.producer == v) for v, op in enumerate(graph.ops)]

    def live_bytes(done: int) -> int:
        total = 0
        for buffer in graph.buffers:
            born = buffer.producer is None or done >> buffer.producer & 1
            read = all(done >> consumer & 1 for consumer in buffer.consumers)
            dead = born and read and not buffer.kept
            total += buffer.size if born and not dead else 0
        return total

    start = live_bytes(0)
    best = {0: start}
    heap = [(start, 0)]
    closed = set()
    while heap:
        peak, done = heapq.heappop(heap)
        if done == full:
            return peak
        if done in closed:
            continue
        closed.add(done)
        level = live_bytes(done)
        for op in range(n):
            if not done >> op & 1 and before[op] & ~done == 0:
                other = done | 1 << op
                reached = max(peak, level + hump[op])
                if reached < best.get(other, 1 << 70):
                    best[other] = reached
                    heapq.heappush(heap, (reached, other))
    raise AssertionError("a graph without a topological order")


def replayed_peak(graph: Graph, kernels: Sequence[Sequence[int]]) -> int | None:
    """The peak when groups of ops run as kernels, in that order; None where they cannot.  Bytes.

    A buffer that only its own kernel reads takes nothing, a kernel takes the largest workspace of its ops, and
    everything else lives from the kernel that makes it to the last one that reads it.
    """
    at = {op: position for position, ops in enumerate(kernels) for op in ops}
    before = _predecessor_masks(graph)
    if any(mask >> other & 1 and at[other] > at[op] for op, mask in enumerate(before) for other in at):
        return None
    worst = sum(buffer.size for buffer in graph.buffers if buffer.producer is None)
    for position, ops in enumerate(kernels):
        live = max(graph.ops[op].workspace for op in ops)
        for buffer in graph.buffers:
            born = -1 if buffer.producer is None else at[buffer.producer]
            readers = [at[reader] for reader in buffer.consumers]
            if buffer.producer is not None and readers and not buffer.kept and set(readers) == {born}:
                continue
            last = len(kernels) if buffer.kept else max(readers, default=born)
            live += buffer.size if born <= position <= last else 0
        worst = max(worst, live)
    return worst


def most_bytes_of_executions(graph: Graph, parallel: int | None) -> int:
    """The worst case over all executions with at most `parallel` ops at once, by trying every one; exponential."""
    worst = 0
    for done, begun in _executions(graph, parallel):
        held = sum(op.workspace for at, op in enumerate(graph.ops) if (begun & ~done) >> at & 1)
        for buffer in graph.buffers:
            users = buffer.consumers or ((buffer.producer,) if buffer.producer is not None else ())
            born = buffer.producer is None or begun >> buffer.producer & 1
            held += buffer.size if born and (buffer.kept or any(not done >> user & 1 for user in users)) else 0
        worst = max(worst, held)
    return worst


def _executions(graph: Graph, parallel: int | None) -> Iterator[tuple[int, int]]:
    """(completed, started) as bit masks, of every moment of every run; exponential."""
    needs = [sum(1 << before for before in some) for some in graph.predecessors]
    ops = range(len(graph))
    for done in range(1 << len(graph)):
        if any(done >> op & 1 and needs[op] & ~done for op in ops):
            continue
        ready = [op for op in ops if not done >> op & 1 and not needs[op] & ~done]
        for count in range(min(len(ready), parallel or len(ready)) + 1):
            for running in itertools.combinations(ready, count):
                yield done, done | sum(1 << op for op in running)


def _predecessor_masks(graph: Graph) -> list[int]:
    before = [0] * len(graph.ops)
    for buffer in graph.buffers:
        if buffer.producer is not None:
            for consumer in buffer.consumers:
                before[consumer] |= 1 << buffer.producer
    for first, second in graph.order_edges:
        before[second] |= 1 << first
    return before


def random_graphs(count: int, seed: int, kinds: tuple[str, ...] = KINDS, largest: int = 12) -> Iterator[Graph]:
    """`count` graphs of 4 to `largest` ops, each of a random kind and with a random share of every feature."""
    rng = random.Random(seed)
    for _ in range(count):
        yield random_graph(rng, rng.choice(kinds), rng.randint(4, largest))


def random_graph(rng: random.Random, kind: str, num_ops: int, shared: bool | None = None) -> Graph:
    """A graph whose precedences are of `kind`, with buffers on its edges.

    shared: True puts the reads of an op on one buffer with many consumers, False gives every edge its own buffer;
        None draws.  Workspaces, kept outputs, inputs that die and order-only edges are drawn too.
    """
    edges = random_edges(rng, kind, num_ops)
    shared = rng.random() < 0.6 if shared is None else shared
    largest_size = rng.choice([1, 4, 20, 100])

    def size() -> int:
        return rng.randint(0 if rng.random() < 0.1 else 1, largest_size)

    buffers: list[Buffer] = []
    order_edges: list[Edge] = []
    for op in range(num_ops):
        readers = [after for before, after in edges if before == op]
        if shared and readers and rng.random() < 0.8:
            buffers.append(Buffer(f"b{len(buffers)}", size(), op, tuple(sorted(readers)), rng.random() < 0.05))
        else:
            for reader in sorted(readers):
                if rng.random() < 0.15:
                    order_edges.append((op, reader))
                else:
                    buffers.append(Buffer(f"b{len(buffers)}", size(), op, (reader,)))
        if not readers or rng.random() < 0.15:
            buffers.append(Buffer(f"b{len(buffers)}", size(), op, (), rng.random() < 0.6))
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            readers = rng.sample(range(num_ops), rng.randint(1, 2) if shared else 1)
            buffers.append(Buffer(f"b{len(buffers)}", size(), None, tuple(sorted(readers)), rng.random() < 0.1))
    workspaces = [size() if rng.random() < 0.25 else 0 for _ in range(num_ops)]
    ops = tuple(Op(f"op{index}", workspace=workspaces[index]) for index in range(num_ops))
    return Graph(f"random {kind}", ops, tuple(buffers), tuple(order_edges))


def random_order(graph: Graph, rng: random.Random) -> list[int]:
    """A topological order: of the ops that are ready any one comes next."""
    missing = [len(before) for before in graph.predecessors]
    ready = [op for op, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        op = ready.pop(rng.randrange(len(ready)))
        order.append(op)
        for successor in graph.successors[op]:
            missing[successor] -= 1
            if not missing[successor]:
                ready.append(successor)
    return order


def random_edges(rng: random.Random, kind: str, num_ops: int) -> list[Edge]:
    """Distinct precedences (before, after) of the kind; indices are a topological order."""
    match kind:
        case "out_tree":
            return [(rng.randrange(op), op) for op in range(1, num_ops)]
        case "in_tree":
            mirrored = [(rng.randrange(op), op) for op in range(1, num_ops)]
            return sorted((num_ops - 1 - after, num_ops - 1 - before) for before, after in mirrored)
        case "two_terminal":
            return _two_terminal_edges(rng, num_ops)
        case "vertex_series_parallel":
            edges: list[Edge] = []
            _compose(rng, list(range(num_ops)), rng.random() < 0.5, edges)
            return sorted(set(edges))
        case "general":
            density = rng.choice([0.15, 0.25, 0.35])
            return [(a, b) for b in range(num_ops) for a in range(max(0, b - 6), b) if rng.random() < density]
    raise ValueError(kind)


def _two_terminal_edges(rng: random.Random, num_ops: int) -> list[Edge]:
    """Grow a single edge by subdividing edges (series) and doubling subdivided ones (parallel); then renumber."""
    edges = [(0, 1)]
    for new in range(2, num_ops):
        before, after = edges[rng.randrange(len(edges))]
        if rng.random() < 0.5:
            edges.remove((before, after))
        edges += [(before, new), (new, after)]
    after_of: dict[int, list[int]] = {op: [] for op in range(num_ops)}
    missing = dict.fromkeys(range(num_ops), 0)
    for before, after in edges:
        after_of[before].append(after)
        missing[after] += 1
    ready, rank = [0], {}
    while ready:
        op = ready.pop(rng.randrange(len(ready)))
        rank[op] = len(rank)
        for after in after_of[op]:
            missing[after] -= 1
            if not missing[after]:
                ready.append(after)
    return sorted({(rank[before], rank[after]) for before, after in edges})


def _compose(rng: random.Random, ops: list[int], series: bool, edges: list[Edge]) -> tuple[list[int], list[int]]:
    """Series or parallel composition of consecutive parts of `ops`; returns its minimal and its maximal ops."""
    if len(ops) == 1:
        return ops, ops
    num_parts = min(len(ops), rng.choice([2, 2, 2, 3, 4]))
    cuts = [0, *sorted(rng.sample(range(1, len(ops)), num_parts - 1)), len(ops)]
    parts = [_compose(rng, ops[a:b], not series, edges) for a, b in itertools.pairwise(cuts)]
    if series:
        for (_, last), (first, _) in itertools.pairwise(parts):
            edges += [(a, b) for a in last for b in first]
        return parts[0][0], parts[-1][1]
    return [op for first, _ in parts for op in first], [op for _, last in parts for op in last]

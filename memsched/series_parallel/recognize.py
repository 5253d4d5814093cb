"""Is the precedence order series-parallel?  A decomposition tree when yes, a forbidden subgraph when no.

Two notions (Valdes, Tarjan, Lawler 1982):

*vertex series-parallel*   ops are composed; transitive precedences do not matter.  Forbidden: an N in the order,

        a ──> c       a before c and d, b before d, all other pairs incomparable
          ╲
        b ──> d

*two-terminal*             precedences are the arcs of a network whose vertices are the ops, with a virtual source
                           (index n) before all ops that wait for nothing and a virtual sink (n + 1) after all ops
                           that nothing waits for.  Forbidden: a subdivision of the Wheatstone bridge.

How `recognize` works, without a transitive reduction and without bit sets, in O(ops + precedences):

1. In a series-parallel order the immediate precedences form disjoint complete bipartite *blocks* (two ops with one
   common immediate successor have all of them in common).  Sweep the ops in a topological order.  The last
   predecessor u of v is an immediate one.  If u already belongs to a block, v joins it; otherwise v opens a block with
   those of its predecessors that belong to none yet: any other predecessor already has an immediate successor, which
   v does not share unless u has it too.
2. Blocks are the vertices of a network and ops are its arcs, from the block that an op waits for to the block that
   waits for it.  The order is series-parallel exactly if this network is (`reduction.py`).
3. Step 1 assumed what it should find.  So check: every precedence holds in the tree (`realizer.py`), and every pair
   of a block is a precedence.  The first says that the tree orders at least what the graph does, the second at most.

The N is found at the first op whose addition breaks the order (`obstruction.py`), in O((n + m) log n).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.series_parallel.obstruction import InducedN, induced_n
from memsched.series_parallel.realizer import realizer_of
from memsched.series_parallel.reduction import Arc, Network, find_bridge, reduce_network
from memsched.series_parallel.tree import Tree

__all__ = [
    "Bridge",
    "Decomposition",
    "InducedN",
    "TwoTerminalDecomposition",
    "recognize",
    "recognize_two_terminal",
    "terminal_arcs",
]


@dataclass(frozen=True, slots=True)
class Decomposition:
    """The order is vertex series-parallel; the leaves of `tree` are ops."""

    tree: Tree


@dataclass(frozen=True, slots=True)
class TwoTerminalDecomposition:
    """The graph is two-terminal series-parallel; the leaves of `tree` are indices into `arcs` (see `terminal_arcs`)."""

    tree: Tree
    arcs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Bridge:
    """A subdivision of the Wheatstone bridge: the graph is not two-terminal series-parallel.

    `corners` are a, b, c, d; `paths` are the vertices of a..b, a..c, b..c, b..d, c..d with both ends.  Vertices are
    ops, or the virtual source n and sink n + 1.
    """

    corners: tuple[int, int, int, int]
    paths: tuple[tuple[int, ...], ...]


def recognize(graph: Graph) -> Decomposition | InducedN:
    """Decompose the precedence order of `graph`, or name four ops that forbid it.

    Linear when the answer is yes; O((ops + precedences) log ops) when it is no.  The tree is unique for the order.
    Source: Valdes, Tarjan, Lawler 1982; memsched.check.tree verifies either answer.
    """
    order = graph.topological_order
    tree = _decompose(graph.predecessors, order)
    if tree is not None:
        return Decomposition(tree)
    # every prefix of a series-parallel order is one: bisect for the first prefix that is not
    shortest, longest = 1, len(order)
    prefix_tree: Tree = order[0]
    while longest - shortest > 1:
        middle = (shortest + longest) // 2
        found = _decompose(graph.predecessors, order[:middle])
        if found is None:
            longest = middle
        else:
            shortest, prefix_tree = middle, found
    return induced_n(prefix_tree, order[shortest], graph.predecessors)


def terminal_arcs(graph: Graph) -> tuple[tuple[int, int], ...]:
    """The arcs (before, after) of `graph` as a network: its precedences, and those of the two virtual terminals."""
    source, sink = len(graph.ops), len(graph.ops) + 1
    arcs: list[tuple[int, int]] = []
    for op, before in enumerate(graph.predecessors):
        arcs.extend((other, op) for other in before or (source,))
        if not graph.successors[op]:
            arcs.append((op, sink))
    return tuple(arcs)


def recognize_two_terminal(graph: Graph) -> TwoTerminalDecomposition | Bridge:
    """Decompose the precedences of `graph` as a two-terminal network, or find a Wheatstone bridge in it.

    The precedences count as they are stated, transitive ones included.  Linear either way.
    Source: Valdes, Tarjan, Lawler 1982; memsched.check.tree verifies either answer.
    """
    arcs = terminal_arcs(graph)
    source, sink = len(graph.ops), len(graph.ops) + 1
    labelled = ((label, tail, head) for label, (tail, head) in enumerate(arcs))
    network = reduce_network(len(graph.ops) + 2, source, sink, labelled, num_labels=len(arcs))
    tree = network.tree()
    if tree is not None:
        return TwoTerminalDecomposition(tree, arcs)
    bridge = find_bridge(network)
    return Bridge(bridge.corners, tuple(_vertices(network, arcs, path) for path in bridge.paths))


def _vertices(network: Network, arcs: Sequence[tuple[int, int]], path: Sequence[int]) -> tuple[int, ...]:
    """The vertices along a path of the kernel, with one path chosen through each reduced part."""
    walked = [arcs[label] for part in path for label in network.chain(part)]
    return (walked[0][0], *(head for _, head in walked))


def _decompose(predecessors: Sequence[Sequence[int]], order: Sequence[int]) -> Tree | None:
    """The tree of the ops in `order`, a prefix of a topological order, or None."""
    blocks = _Blocks(predecessors)
    for rank, op in enumerate(order):
        if not blocks.add(op, rank):
            return None
    source, sink = blocks.count, blocks.count + 1
    arcs = blocks.arcs(order, source, sink)
    tree = reduce_network(blocks.count + 2, source, sink, arcs, num_labels=len(predecessors)).tree()
    if tree is None:
        return None
    realizer = realizer_of(tree, len(predecessors))
    first, second = realizer.first, realizer.second
    for op in order:
        place, mirrored = first[op], second[op]
        for before in predecessors[op]:
            if first[before] > place or second[before] > mirrored:
                return None
    return tree


class _Blocks:
    """Complete bipartite blocks of immediate precedences, grown op by op in a topological order (step 1)."""

    def __init__(self, predecessors: Sequence[Sequence[int]]) -> None:
        self.predecessors = predecessors
        self.sources: list[tuple[int, ...]] = []
        self.rank = [-1] * len(predecessors)
        self.block_before = [_NO_BLOCK] * len(predecessors)
        self.block_after = [_NO_BLOCK] * len(predecessors)

    @property
    def count(self) -> int:
        return len(self.sources)

    def add(self, op: int, rank: int) -> bool:
        """Give `op`, at place `rank`, its block; False when a pair of that block would not be a precedence."""
        before = self.predecessors[op]
        self.rank[op] = rank
        if not before:
            return True
        last = before[0] if len(before) == 1 else max(before, key=self.rank.__getitem__)
        block = self.block_after[last]
        if block == _NO_BLOCK:
            sources = tuple([other for other in before if self.block_after[other] == _NO_BLOCK])
            block = len(self.sources)
            self.sources.append(sources)
            for other in sources:
                self.block_after[other] = block
        elif not _is_subset(self.sources[block], before):
            return False
        self.block_before[op] = block
        return True

    def arcs(self, ops: Iterable[int], source: int, sink: int) -> Iterator[Arc]:
        """For each op the arc from the block that it waits for to the block that waits for it (step 2)."""
        for op in ops:
            before, after = self.block_before[op], self.block_after[op]
            yield op, source if before == _NO_BLOCK else before, sink if after == _NO_BLOCK else after


_NO_BLOCK = -1


def _is_subset(some: Sequence[int], others: Sequence[int]) -> bool:
    if len(some) == 1:
        return some[0] in others
    return len(some) <= len(others) and set(others).issuperset(some)

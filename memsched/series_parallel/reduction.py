"""Series and parallel reductions of a two-terminal network: the engine of both recognitions.

A *network* is an acyclic multigraph with one source and one sink; its *arcs* are
labelled with numbers.  Two reductions shrink it:

    series     u ──x──> v ──y──> w   ==>   u ──xy──> w       v has no other arc and is not a terminal
    parallel   u ──x──> w, u ──y──> w  ==>  u ──x|y──> w

Claim: the network is (edge) series-parallel exactly if the reductions, in any order, end in one arc from source to
sink; what they did is then its decomposition tree.  Otherwise they end in a *kernel* without parallel arcs in which
every inner vertex has at least three arcs.  Linear: a work list of vertices with one arc in and one out, and parallel
arcs are merged when they appear, through a dictionary per vertex.

The kernel then holds a subdivision of the Wheatstone bridge, found without search (the argument is in `find_bridge`):

        b ────> d          corners a, b, c, d; five paths a..b, a..c, b..c, b..d, c..d that share nothing but corners
      ↗ │     ↗
    a   ↓   ╱
      ↘ c ─╯

Reference: Valdes, Tarjan, Lawler 1982, section 2 (reductions) and section 4 (the forbidden subgraph).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memsched.series_parallel.tree import Parallel, Series, Tree

__all__ = ["Arc", "KernelBridge", "Network", "find_bridge", "reduce_network"]

Arc = tuple[int, int, int]
"""(label, tail, head): an arc of the network leaves its tail and enters its head; its label is its name in the tree."""


@dataclass(frozen=True, slots=True)
class KernelBridge:
    """A subdivided Wheatstone bridge in a kernel: four vertices, and for each of five paths its arcs' labels.

    `paths` are in the order a..b, a..c, b..c, b..d, c..d; a label stands for a whole reduced part (`Network.chain`).
    """

    corners: tuple[int, int, int, int]
    paths: tuple[tuple[int, ...], ...]


class Network:
    """A network under reduction.

    `out[u]` maps each head w to the label of the one arc u -> w; `into[w]` holds the tails.  A label below
    `num_labels` is an original arc; label `num_labels + k` is composition k.  Its parts are a linked list of labels,
    from `first[k]` along `following` to `last[k]`: a part of the same kind is dissolved by splicing its list in, which
    `dissolved[k]` records.
    """

    def __init__(self, num_vertices: int, source: int, sink: int, arcs: Iterable[Arc], num_labels: int) -> None:
        self.source, self.sink = source, sink
        self.num_labels = num_labels
        # parallel lists, as an object for each composition costs the garbage collector more than the reductions
        self.is_series: list[bool] = []
        self.dissolved: list[bool] = []
        self.first: list[int] = []
        self.last: list[int] = []
        self.following = [_NO_LABEL] * num_labels
        self.out: list[dict[int, int]] = [{} for _ in range(num_vertices)]
        self.into: list[dict[int, None]] = [{} for _ in range(num_vertices)]
        for label, tail, head in arcs:
            self._insert(tail, head, label)

    def _insert(self, tail: int, head: int, label: int) -> bool:
        """Add an arc, merged with the one that is there; True when one was."""
        other = self.out[tail].get(head)
        if other is None:
            self.out[tail][head] = label
            self.into[head][tail] = None
            return False
        self.out[tail][head] = self._compose(False, other, label)
        return True

    def _compose(self, is_series: bool, left: int, right: int) -> int:
        first, left_end = self._spliced(is_series, left)
        right_start, last = self._spliced(is_series, right)
        self.following[left_end] = right_start
        self.following.append(_NO_LABEL)
        self.is_series.append(is_series)
        self.dissolved.append(False)
        self.first.append(first)
        self.last.append(last)
        return len(self.following) - 1

    def _spliced(self, is_series: bool, label: int) -> tuple[int, int]:
        """The ends of the list that `label` becomes in a composition: its own list, when it is of the same kind."""
        at = label - self.num_labels
        if at < 0 or self.is_series[at] != is_series:
            return label, label
        self.dissolved[at] = True
        return self.first[at], self.last[at]

    def _is_simple(self, vertex: int) -> bool:
        inner = vertex != self.source and vertex != self.sink
        return inner and len(self.out[vertex]) == 1 and len(self.into[vertex]) == 1

    def reduce(self) -> None:
        """Apply both reductions until neither applies."""
        work = deque(vertex for vertex in range(len(self.out)) if self._is_simple(vertex))
        while work:
            vertex = work.popleft()
            if not self._is_simple(vertex):
                continue
            (tail,) = self.into[vertex]
            ((head, second),) = self.out[vertex].items()
            first = self.out[tail].pop(vertex)
            del self.into[head][vertex]
            self.out[vertex].clear()
            self.into[vertex].clear()
            if self._insert(tail, head, self._compose(True, first, second)):
                work.extend([end for end in (tail, head) if self._is_simple(end)])

    def tree(self) -> Tree | None:
        """The decomposition tree over the arcs, or None when a kernel is left.

        Children of a Parallel are in the order of their smallest leaf.
        """
        arcs_left = sum(map(len, self.out))
        root = self.out[self.source].get(self.sink)
        if arcs_left != 1 or root is None:
            return None
        # by label: parts have smaller labels than what they are composed to
        trees: list[Tree] = list(range(self.num_labels))
        smallest = list(range(self.num_labels))
        for at, dissolved in enumerate(self.dissolved):
            if dissolved:
                trees.append(_NO_LABEL)
                smallest.append(_NO_LABEL)
                continue
            parts = self._parts(at)
            smallest.append(min([smallest[part] for part in parts]))
            if self.is_series[at]:
                trees.append(Series(tuple([trees[part] for part in parts])))
            else:
                parts.sort(key=smallest.__getitem__)
                trees.append(Parallel(tuple([trees[part] for part in parts])))
        return trees[root]

    def _parts(self, composition: int) -> list[int]:
        """The labels that `composition` is made of, none of its own kind; from left to right if it is a series."""
        parts = [self.first[composition]]
        while parts[-1] != self.last[composition]:
            parts.append(self.following[parts[-1]])
        return parts

    def chain(self, label: int) -> list[int]:
        """Original arcs of one path through the part that `label` stands for."""
        arcs: list[int] = []
        stack = [label]
        while stack:
            part = stack.pop()
            at = part - self.num_labels
            if at < 0:
                arcs.append(part)
            elif self.is_series[at]:
                stack.extend(reversed(self._parts(at)))
            else:
                stack.append(self.first[at])
        return arcs


_NO_LABEL = -1


def reduce_network(num_vertices: int, source: int, sink: int, arcs: Iterable[Arc], num_labels: int) -> Network:
    """The network of `arcs`, whose labels are below `num_labels`, reduced as far as it goes.

    Every vertex that has an arc must lie on a path from `source` to `sink`, and there must be no cycle.
    """
    network = Network(num_vertices, source, sink, arcs, num_labels)
    network.reduce()
    return network


def find_bridge(network: Network) -> KernelBridge:
    """A Wheatstone bridge in a reduced network that is not one arc.  Linear in the kernel.

    Take vertices in a topological order.  Let c be the first with two arcs in (without one, the kernel is a tree with
    one sink, so a path, and would have been reduced).  Every vertex before c has one arc in: its ancestors form a
    tree.  Let b be the last of c's predecessors, p another, a the last common ancestor of b and p in that tree.
    a is not b, as b comes after p.  b has one arc in, so it has another arc out, to w say, and w does not reach c:
    it would do so through a predecessor of c later than b.  So any path b, w, ..., sink avoids all ancestors of c,
    and meets any path from c to the sink for the first time at a vertex d after c.  The paths a..b and a..p, c are
    disjoint below a, and everything on them precedes c.
    """
    order = _kernel_order(network)
    rank = {vertex: at for at, vertex in enumerate(order)}
    c = next(vertex for vertex in order if len(network.into[vertex]) >= 2)
    other, b = sorted(network.into[c], key=rank.__getitem__)[-2:]
    above_b = _tree_path(network, b)
    above_other = _tree_path(network, other)
    shared = 0
    while shared < min(len(above_b), len(above_other)) and above_b[shared] == above_other[shared]:
        shared += 1
    a = above_b[shared - 1]
    leaving = next(head for head in network.out[b] if head != c)
    from_b = [b, *_path_to_sink(network, leaving)]
    from_c = _path_to_sink(network, c)
    meeting = set(from_c)
    d = next(vertex for vertex in from_b if vertex in meeting)
    walks = (
        above_b[shared - 1 :],
        [*above_other[shared - 1 :], c],
        [b, c],
        from_b[: from_b.index(d) + 1],
        from_c[: from_c.index(d) + 1],
    )
    return KernelBridge((a, b, c, d), tuple(_labels(network, walk) for walk in walks))


def _kernel_order(network: Network) -> list[int]:
    missing = {vertex: len(tails) for vertex, tails in enumerate(network.into) if tails}
    order = [network.source]
    for vertex in order:
        for head in network.out[vertex]:
            missing[head] -= 1
            if not missing[head]:
                order.append(head)
    return order


def _tree_path(network: Network, vertex: int) -> list[int]:
    """From the source down to a vertex all of whose ancestors have one arc in."""
    path = [vertex]
    while network.into[path[-1]]:
        path.append(next(iter(network.into[path[-1]])))
    path.reverse()
    return path


def _path_to_sink(network: Network, vertex: int) -> list[int]:
    path = [vertex]
    while path[-1] != network.sink:
        path.append(next(iter(network.out[path[-1]])))
    return path


def _labels(network: Network, walk: Sequence[int]) -> tuple[int, ...]:
    return tuple(network.out[walk[at]][walk[at + 1]] for at in range(len(walk) - 1))

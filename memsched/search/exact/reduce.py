"""The kernel of a problem: everything series-parallel in it collapsed to chains of segments.

Two rules, applied until neither does anything, on the precedence graph without transitive edges.  Vertices of that
graph are chains (see `chain`), at first one for each node.

    series    a -> b, nothing else leaves a, nothing else enters b          a and b become one chain
    parallel  a and b have the same predecessors and the same successors,   a and b become one chain, merged in
              and neither holds a fixed node                                Johnson's order

          ┌─> b ──> c ─┐                       ┌─────────┐
     a ───┤            ├──> e      becomes     a, (b c d), e      if no node reads a truly shared tensor
          └─> d ───────┘

Both keep the optimum: the united vertices are a module of the order (nothing outside tells them apart), and a chain in
Johnson's order dominates every other way to run its nodes between others (the exchange argument of
`series_parallel.segments`, with `modules` for why one profile dominates at all).  A vertex series-parallel order
without shared tensors shrinks to a single chain: then the kernel search is the polynomial algorithm.

In the kernel problem each link of a chain is one node; its rope gives the original ops back.  O((n + m) log n) but
for graphs whose merges cascade one by one through a vertex of high degree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.search.budget import Budget
from memsched.search.exact.canonical import collapse_modules
from memsched.search.exact.chain import Chain, Link, in_parallel, in_series, is_free, problem_of_links
from memsched.search.exact.problem import Problem, bits, mask_of
from memsched.series_parallel.segments import Segment

__all__ = ["Kernel", "kernelize", "reduce_series_parallel"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A smaller problem with the same optimum; `lift` turns its orders into orders of the original ops."""

    problem: Problem

    def lift(self, order: Sequence[int]) -> tuple[int, ...]:
        """The order of the ops that an order of the kernel's nodes stands for; the peak is the same or lower."""
        return self.problem.lift(order)


def kernelize(graph: Graph | Problem, budget: Budget) -> Kernel:
    """Collapse the series-parallel parts, then every module that exact search can collapse within `budget`."""
    problem = Problem.from_graph(graph) if isinstance(graph, Graph) else graph
    size = None
    while size != len(problem):
        size = len(problem)
        problem = collapse_modules(reduce_series_parallel(problem), budget)
    return Kernel(problem)


def reduce_series_parallel(problem: Problem) -> Problem:
    """The problem with every series-parallel part collapsed."""
    reduction = _Reduction(problem)
    reduction.run()
    return reduction.problem()


class _Reduction:
    """The graph of chains, numbered by one of their nodes; `dirty` are the vertices whose neighbours have changed."""

    def __init__(self, problem: Problem) -> None:
        self.original = problem
        fixed = 0
        for tensor in problem.shared:
            fixed |= tensor.readers
        self.chains: dict[int, Chain] = {
            node: [node if fixed >> node & 1 else Segment(hump, hump - delta, node)]
            for node, (hump, delta) in enumerate(zip(problem.humps, problem.deltas, strict=True))
        }
        self.before = [set(bits(mask)) for mask in problem.predecessors]
        self.after = [set(bits(mask)) for mask in problem.successors]
        self.dirty = set(self.chains)

    def run(self) -> None:
        """Series, then parallel, until nothing changes."""
        while self.dirty:
            dirty = sorted(self.dirty)
            self.dirty = set()
            for vertex in dirty:
                if vertex in self.chains:
                    self._absorb_successors(vertex)
            self._merge_twins(vertex for vertex in sorted({*dirty, *self.dirty}) if vertex in self.chains)

    def _absorb_successors(self, vertex: int) -> None:
        """The series rule, as often as it applies to the end of one chain, then to its start."""
        while len(self.before[vertex]) == 1:
            (first,) = self.before[vertex]
            if len(self.after[first]) != 1:
                break
            vertex = first
        while len(self.after[vertex]) == 1:
            (second,) = self.after[vertex]
            if len(self.before[second]) != 1:
                break
            self.chains[vertex] = in_series(self.chains[vertex], self.chains.pop(second))
            self.after[vertex] = self.after[second]
            for later in self.after[second]:
                self.before[later].remove(second)
                self.before[later].add(vertex)
            self.dirty.add(vertex)

    def _merge_twins(self, candidates: Iterable[int]) -> None:
        """The parallel rule: all free chains with the same neighbours become one."""
        twins: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for vertex in candidates:
            if is_free(self.chains[vertex]):
                neighbours = (tuple(sorted(self.before[vertex])), tuple(sorted(self.after[vertex])))
                twins.setdefault(neighbours, []).append(vertex)
        for (before, after), vertices in twins.items():
            if not self._are_neighbours(vertices[0], before, after):
                self.dirty.update(vertex for vertex in vertices if vertex in self.chains)  # a merge before this one
                continue
            vertices = self._with_clean_twins(before, after, vertices)
            if len(vertices) < 2:
                continue
            kept = vertices[0]
            self.chains[kept] = in_parallel([self.chains[vertex] for vertex in vertices])
            for vertex in vertices[1:]:
                del self.chains[vertex]
                for earlier in before:
                    self.after[earlier].discard(vertex)
                for later in after:
                    self.before[later].discard(vertex)
            self.dirty.update((kept, *before, *after))

    def _are_neighbours(self, vertex: int, before: Sequence[int], after: Sequence[int]) -> bool:
        return vertex in self.chains and self.before[vertex] == set(before) and self.after[vertex] == set(after)

    def _with_clean_twins(self, before: tuple[int, ...], after: tuple[int, ...], found: list[int]) -> list[int]:
        """The free twins of `found`, with those whose neighbours have not changed since they were last looked at."""
        beside = [self.after[vertex] for vertex in before] + [self.before[vertex] for vertex in after]
        others: Collection[int] = min(beside, key=len, default=self.chains.keys())
        if len(others) == len(found):
            return found
        same = set(before), set(after)
        return sorted(
            other for other in others if (self.before[other], self.after[other]) == same and is_free(self.chains[other])
        )

    def problem(self) -> Problem:
        """The kernel: one node for each link."""
        first_of: dict[int, int] = {}
        last_of: dict[int, int] = {}
        links: list[Link] = []
        for vertex, chain in self.chains.items():
            first_of[vertex] = len(links)
            links.extend(chain)
            last_of[vertex] = len(links) - 1
        predecessors = [1 << at - 1 if at else 0 for at in range(len(links))]
        for vertex, at in first_of.items():
            predecessors[at] = mask_of(last_of[earlier] for earlier in self.before[vertex])
        return problem_of_links(self.original, links, predecessors)

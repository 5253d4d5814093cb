"""Exact search on any graph: commit to record lows from both ends, and search only between them.

`memory` is submodular on down-sets (see `problem`), and three facts follow; "level" is the peak allowed so far.

  1. *Meet at the lowest point.*  Let L be a down-set with the fewest live bytes of all.  Any order S0, S1, ... can be
     rerouted through L: first the sets S_i & L, then S_i | L.  memory(S_i & L) + memory(S_i | L) <= memory(S_i) +
     memory(L) and both terms on the left are at least memory(L), so neither is above memory(S_i): no peak rises.
  2. *Commit to valleys.*  Let A be reached, and Y a larger down-set, reached from A within the level, that is lowest
     between A and Y.  Every completion from A can be replaced by: go to Y, then S_i | Y; memory(S_i | Y) <=
     memory(S_i) + memory(Y) - memory(S_i & Y) <= memory(S_i).  So nothing is lost by going to Y.
  3. *A level that is needed is a bound.*  Best-first search pops states by the peak that reaching them takes.  Every
     completion from A passes a record low below A, so the level at which the first one is popped is a lower bound on
     the peak of every order, and so is the level of whatever is popped when the budget ends.

    bytes                              From A the search climbs both humps of the first hill; X is the first state
      |      _                         that is no higher than A.  The lowest set Y between A and X is committed, and
      |  _  / \\    .                   the search starts again from Y.  What is left on the heap is forgotten.
      |_/ \\/   \\  / .
      A         \\/  .        L         From the other end, time is reversed: tensors are allocated where they were
      |         Y,X            \\       freed, and the same search walks from the last set back to L.
      +--------------------------- ops

Steps that free at least what they allocate and fit under the level are taken at once (fact 2 with one step).

When the budget ends, what has been committed stays: by fact 2 the rest can follow any incumbent order without rising
above it, so the order that is returned is never worse than the incumbent.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.exact.problem import Problem, bits
from memsched.search.exact.view import Backward, Forward, View

__all__ = ["ExactResult", "Stair", "exact_search", "staircases"]


@dataclass(frozen=True, slots=True)
class ExactResult:
    """What exact search found.

    order: in the numbering of what was searched (ops of a graph, nodes of a problem); None when there is neither a
        complete order nor an incumbent, and when the incumbent is known only by its peak and turned out to be best.
    lower_bound: bytes that every order needs: proved, whether the search is complete or not.
    states: how many down-sets were expanded.
    complete: the bound is met, by the order or (when nothing below the upper bound exists) by the incumbent.
    """

    order: tuple[int, ...] | None
    lower_bound: int
    states: int
    complete: bool


def exact_search(
    problem: Problem | Graph,
    *,
    lower_bound: int = 0,
    upper_bound: int,
    budget: Budget,
    incumbent: Sequence[int] | None = None,
) -> ExactResult:
    """Search for an order with a peak below `upper_bound` bytes, starting at the level of a proved `lower_bound`.

    `incumbent` is an order whose peak is at most `upper_bound`; the order returned is never worse.
    One unit of the budget is one state generated.
    """
    if isinstance(problem, Graph):
        problem = Problem.from_graph(problem)
    search = _Search(problem, lower_bound, upper_bound, budget)
    search.run()
    proved = min(search.level, upper_bound)
    return ExactResult(search.order(incumbent), proved, search.states, search.complete)


class _Search:
    """The two ends of the order that are committed so far, and the level that they are known to need."""

    def __init__(self, problem: Problem, lower_bound: int, upper_bound: int, budget: Budget) -> None:
        self.problem, self.upper_bound, self.budget = problem, upper_bound, budget
        self.level = max(lower_bound, problem.base, problem.end)
        self.states = 0
        self.front: list[int] = []
        self.back: list[int] = []
        self.complete = False
        self.reached_upper_bound = False

    def run(self) -> None:
        """Commit from both ends until they meet, the level reaches the upper bound, or the budget ends."""
        if self.level >= self.upper_bound:
            self.reached_upper_bound = self.complete = True
            return
        lowest = self.problem.lowest_down_set(0, self.problem.full)
        if self._commit_all(Forward(self.problem), lowest, self.front) and self._commit_all(
            Backward(self.problem), self.problem.full & ~lowest, self.back
        ):
            self.complete = True

    def _commit_all(self, view: View, target: int, committed: list[int]) -> bool:
        """Phases from nothing to `target` in the direction of `view`; False when the search is over."""
        anchor, memory = 0, view.start
        while anchor != target:
            phase = _Phase(view, anchor, memory, target, self.level, self.upper_bound)
            valley = phase.run(self.budget)
            self.states += phase.states
            self.level = phase.level
            if valley is None:
                self.reached_upper_bound = self.complete = phase.level >= self.upper_bound
                return False
            lowest = view.lowest(anchor, valley)
            committed.extend(node for node in phase.path_to(valley) if lowest >> node & 1)
            memory = view.memory(lowest)
            anchor = lowest
        return True

    def order(self, incumbent: Sequence[int] | None) -> tuple[int, ...] | None:
        """Committed ends with the incumbent between them; the incumbent itself when it is best."""
        if self.reached_upper_bound:
            return None if incumbent is None else tuple(incumbent)
        if self.complete:
            return (*self.front, *reversed(self.back))
        if incumbent is None:
            return None
        done = set(self.front) | set(self.back)
        return (*self.front, *(node for node in incumbent if node not in done), *reversed(self.back))


Stair = tuple[int, int, tuple[int, ...]]
"""(bytes climbed, bytes fallen, nodes): one phase from an anchor to the next record low."""


def staircases(problem: Problem, budget: Budget) -> tuple[list[Stair], list[Stair]] | None:
    """All record lows from the start down to the lowest point, and from the end back to it; None: budget exhausted."""
    lowest = problem.lowest_down_set(0, problem.full)
    views: list[tuple[View, int]] = [(Forward(problem), lowest), (Backward(problem), problem.full & ~lowest)]
    both: list[list[Stair]] = []
    for view, target in views:
        stairs: list[Stair] = []
        anchor, memory = 0, view.start
        while anchor != target:
            phase = _Phase(view, anchor, memory, target, memory, _NO_CEILING)
            valley = phase.run(budget)
            if valley is None:
                return None
            anchor = view.lowest(anchor, valley)
            nodes = tuple(node for node in phase.path_to(valley) if anchor >> node & 1)
            fallen_to = view.memory(anchor)
            stairs.append((phase.level - memory, phase.level - fallen_to, nodes))
            memory = fallen_to
        both.append(stairs)
    return both[0], both[1]


_NO_CEILING = 1 << 66


class _Phase:
    """Best-first search, by (level, memory), from an anchor to the first state that is no higher."""

    def __init__(self, view: View, anchor: int, memory: int, target: int, level: int, ceiling: int) -> None:
        self.view, self.anchor, self.floor, self.target = view, anchor, memory, target
        self.level, self.ceiling = level, ceiling
        self.limit = ceiling  # below it when a record low has been generated: only lower levels are of interest
        self.states = 0
        self.num_tests = 0
        self.came_from: dict[int, tuple[int, tuple[int, ...]]] = {}
        self.best = {anchor: level}

    def run(self, budget: Budget) -> int | None:
        """The first state no higher than the anchor; None when the ceiling is reached or the budget ends."""
        ready = 0
        for node in bits(self.target & ~self.anchor):
            if not self.view.predecessors[node] & ~self.anchor:
                ready |= 1 << node
        heap = [(self.level, self.floor, 0, self.anchor, ready)]
        pushed = 0
        closed: set[int] = set()
        while heap:
            level, memory, _, done, ready = heapq.heappop(heap)
            if done in closed:
                continue
            closed.add(done)
            self.level = level
            if done != self.anchor and (memory <= self.floor or done == self.target):
                return done
            self.states += 1
            for node in bits(ready):
                if not budget.spend(1 + self.num_tests // prices.DOMINANCE_TESTS):
                    return None
                self.num_tests = 0
                reached = max(level, self.view.step(done, memory, node)[0])
                if reached >= self.limit:
                    continue
                after, state, open_nodes, taken = self._take(done, memory, ready, reached, node)
                if reached < self.best.get(state, self.limit):
                    self.best[state] = reached
                    self.came_from[state] = (done, taken)
                    pushed += 1
                    heapq.heappush(heap, (reached, after, pushed, state, open_nodes))
                    if after <= self.floor:
                        self.limit = reached
        self.level = self.ceiling
        return None

    def _take(self, done: int, memory: int, ready: int, level: int, node: int) -> tuple[int, int, int, tuple[int, ...]]:
        """Take `node`, then every step that does not raise memory and fits under the level.

        Returns (memory, state, ready nodes, nodes taken).
        """
        view = self.view
        memory = view.step(done, memory, node)[1]
        done |= 1 << node
        ready = self._ready_after(done, ready, node)
        taken = [node]
        falling = ready & view.may_fall
        while falling and memory > self.floor:
            lowest = falling & -falling
            falling ^= lowest
            other = lowest.bit_length() - 1
            self.num_tests += 1
            peak, after = view.step(done, memory, other)
            if after <= memory and peak <= level:
                memory = after
                done |= lowest
                ready = self._ready_after(done, ready, other)
                taken.append(other)
                falling = ready & view.may_fall
        return memory, done, ready, tuple(taken)

    def _ready_after(self, done: int, ready: int, node: int) -> int:
        ready ^= 1 << node
        for successor in self.view.successors[node]:
            if self.target >> successor & 1 and not self.view.predecessors[successor] & ~done:
                ready |= 1 << successor
        return ready

    def path_to(self, state: int) -> list[int]:
        """The nodes taken from the anchor to `state`, in the order of the view."""
        parts: list[tuple[int, ...]] = []
        while state != self.anchor:
            state, taken = self.came_from[state]
            parts.append(taken)
        return [node for part in reversed(parts) for node in part]

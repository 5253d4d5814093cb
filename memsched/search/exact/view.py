"""A problem seen from either end, so that one search commits the start of an order and its end.

    forward     a ─> b ─> c ─> d        taking a node runs it
    backward    a <─ b <─ c <─ d        taking a node un-runs it: its outputs go, what it read last is back

What is live between two steps does not depend on the end from which one came there, so neither does a peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from memsched.search.exact.problem import Problem, bits

__all__ = ["Backward", "Forward", "View"]


class View(Protocol):
    """A problem seen from one end: `done` is what has been taken from that end."""

    predecessors: Sequence[int]
    successors: Sequence[Sequence[int]]
    may_fall: int
    start: int

    def step(self, done: int, level: int, node: int) -> tuple[int, int]:
        """(step peak, level after) of taking `node` next."""

    def memory(self, done: int) -> int:
        """Live bytes at the border of `done`."""

    def lowest(self, inner: int, outer: int) -> int:
        """The largest of the lowest sets between two."""


class Forward:
    """From the first op on."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.predecessors: Sequence[int] = problem.predecessors
        self.successors: Sequence[Sequence[int]] = [tuple(bits(after)) for after in problem.successors]
        self.start = problem.base
        self.step = problem.step
        self.memory = problem.memory
        self.may_fall = 0
        for node, delta in enumerate(problem.deltas):
            if delta <= sum(size for size, _ in problem.shared_of[node]):
                self.may_fall |= 1 << node

    def lowest(self, inner: int, outer: int) -> int:
        return self.problem.lowest_down_set(inner, outer, largest=True)


class Backward:
    """From the last op back: taking a node un-runs it, and un-running the first reader of a tensor brings it back."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.predecessors: Sequence[int] = problem.successors
        self.successors: Sequence[Sequence[int]] = [tuple(bits(before)) for before in problem.predecessors]
        self.start = problem.end
        self.may_fall = 0
        for node, delta in enumerate(problem.deltas):
            if delta >= 0:
                self.may_fall |= 1 << node

    def step(self, done: int, level: int, node: int) -> tuple[int, int]:
        before = level - self.problem.deltas[node]
        for size, readers in self.problem.shared_of[node]:
            if not readers & done:
                before += size
        return before + self.problem.humps[node], before

    def memory(self, done: int) -> int:
        return self.problem.memory(self.problem.full & ~done)

    def lowest(self, inner: int, outer: int) -> int:
        full = self.problem.full
        return full & ~self.problem.lowest_down_set(full & ~outer, full & ~inner)

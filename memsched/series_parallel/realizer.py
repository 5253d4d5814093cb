"""Two sequences that answer "must u run before v?" in constant time.

The leaves of a decomposition tree are read twice from left to right, the second time with the children of every
Parallel reversed.  Claim: u precedes v exactly if u is left of v in both sequences (a series-parallel order has
dimension two), because the lowest node above both is a Series with u on the left, or a Series with v on the left, or
a Parallel, whose children the two sequences read in opposite order.

    Series(a, Parallel(b, c), d)        first   a b c d
                                        second  a c b d        b and c swap: incomparable

Reference: K. A. Baker, P. C. Fishburn, F. S. Roberts, Partial orders of dimension 2, Networks 2, 1972.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memsched.series_parallel.tree import Parallel, Tree

__all__ = ["Realizer", "realizer_of"]


@dataclass(frozen=True, slots=True)
class Realizer:
    """The place of each op in the two sequences, by op index; -1 for an op that is not in the tree."""

    first: list[int]
    second: list[int]

    def precedes(self, before: int, after: int) -> bool:
        """Whether `before` runs before `after` in every order."""
        return self.first[before] < self.first[after] and self.second[before] < self.second[after]

    def maximal(self, ops: Iterable[int]) -> tuple[int, ...]:
        """Those of `ops` that precede no other of them, in the order of the first sequence.  O(k log k)."""
        found: list[int] = []
        for op in sorted(ops, key=self.first.__getitem__, reverse=True):
            # all ops so far are to the right in the first sequence; `found` falls in it and rises in the second
            if not found or self.second[op] > self.second[found[-1]]:
                found.append(op)
        return tuple(reversed(found))


def realizer_of(tree: Tree, num_ops: int) -> Realizer:
    """The two sequences of `tree`, whose leaves are ops below `num_ops`.  Linear."""
    return Realizer(_places(tree, num_ops, mirrored=False), _places(tree, num_ops, mirrored=True))


def _places(tree: Tree, num_ops: int, mirrored: bool) -> list[int]:
    places = [-1] * num_ops
    found = 0
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, int):
            places[node] = found
            found += 1
        elif mirrored and isinstance(node, Parallel):
            stack.extend(node.children)
        else:
            stack.extend(reversed(node.children))
    return places

"""Four ops that show that an order is not series-parallel.

        a ──> c         an induced N: a before c and d, b before d;
          ╲             a and b, b and c, c and d are incomparable
        b ──> d

Given is the tree of a series-parallel order and one more op v, later than all of it, whose addition breaks the order.
Let D be the ops that precede v, all of them.  A node of the tree is *untouched* when it has no leaf in D, *full*
when it has only such leaves, else *partial*.  Walk down from the root, through partial nodes:

Series A1, ..., Ak.  D is closed under predecessors, so there is one i with A1..A(i-1) full and A(i+1)..Ak untouched.
    Ai full: v fits in parallel to A(i+1)..Ak, nothing is broken here.
    Ai partial and i = k: go down into it.
    Ai partial and i < k: Ai is a Parallel (a leaf is never partial).  Take p in D and q not in D from different
        children of Ai, and any x of A(i+1): p before v and x, q before x, and (q, p), (q, v), (x, v) incomparable.
        So p, q, v, x are an N as a, b, c, d.
Parallel C1, ..., Ck.
    One child is touched: go down into it (it is partial, or v fits here).
    All touched children are full: v fits above them.
    Else Ci is partial, so a Series, and Cj is touched too: take p in D from the first part of Ci, q not in D from a
        later part, and r in D from Cj: p before v and q, r before v, and (r, p), (r, q), (q, v) incomparable.
        So p, r, q, v are an N as a, b, c, d.

By the same case analysis v fits wherever no N is met, so a broken order always ends in one (incremental recognition
of cographs, Corneil, Perl, Stewart 1985, for orders).  One pass over the tree: linear.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memsched.series_parallel.tree import Parallel, Series, Tree, leaves, post_order

__all__ = ["InducedN", "induced_n"]


@dataclass(frozen=True, slots=True)
class InducedN:
    """Ops with a before c and d, b before d, and no other precedence among them, direct or implied."""

    a: int
    b: int
    c: int
    d: int


def induced_n(tree: Tree, op: int, predecessors: Sequence[Sequence[int]]) -> InducedN:
    """An N made of `op` and three leaves of `tree`, whose order the addition of `op` must break.  Linear.

    Raises:
        ValueError: the addition of `op` does not break the order.
    """
    before = _ancestors(op, predecessors)
    touched = _leaves_in(tree, before)
    node = tree
    while not isinstance(node, int):
        parts = [part for part in node.children if touched[_key(part)][0]]
        partial = [part for part in parts if touched[_key(part)][0] < touched[_key(part)][1]]
        if not partial:
            break
        down = partial[0]
        if isinstance(node, Series) and down is not node.children[-1]:
            return _broken_series(node, down, op, before)
        if isinstance(node, Parallel) and len(parts) > 1:
            other = next(part for part in parts if part is not down)
            return _broken_parallel(down, other, op, before)
        node = down
    raise ValueError(f"op {op} can be added to the series-parallel order")


def _broken_series(node: Series, partial: Tree, op: int, before: set[int]) -> InducedN:
    assert isinstance(partial, Parallel)
    at = next(at for at, part in enumerate(node.children) if part is partial)
    beyond = leaves(node.children[at + 1])[0]
    ahead = _firsts(partial.children, lambda leaf: leaf in before)
    behind = _firsts(partial.children, lambda leaf: leaf not in before)
    # two of each kind are enough: they cannot all lie in one child
    for (one, p), (other, q) in itertools.product(ahead[:2], behind[:2]):
        if one != other:
            return InducedN(p, q, op, beyond)
    raise AssertionError("a partial Parallel has ops of both kinds in different children")


def _broken_parallel(partial: Tree, other: Tree, op: int, before: set[int]) -> InducedN:
    assert isinstance(partial, Series)
    p = next(leaf for leaf in leaves(partial.children[0]) if leaf in before)
    q = next(leaf for part in partial.children[1:] for leaf in leaves(part) if leaf not in before)
    r = next(leaf for leaf in leaves(other) if leaf in before)
    return InducedN(p, r, q, op)


def _firsts(children: Sequence[Tree], wanted: Callable[[int], bool]) -> list[tuple[int, int]]:
    """(child, leaf) for the first wanted leaf of each child that has one."""
    found = ((at, next(filter(wanted, leaves(child)), None)) for at, child in enumerate(children))
    return [(at, leaf) for at, leaf in found if leaf is not None]


def _ancestors(op: int, predecessors: Sequence[Sequence[int]]) -> set[int]:
    found: set[int] = set()
    stack = list(predecessors[op])
    while stack:
        other = stack.pop()
        if other not in found:
            found.add(other)
            stack.extend(predecessors[other])
    return found


def _leaves_in(tree: Tree, ops: set[int]) -> dict[int, tuple[int, int]]:
    """For each node how many of its leaves are in `ops`, and how many leaves it has."""
    counts: dict[int, tuple[int, int]] = {}
    for node in post_order(tree):
        if isinstance(node, int):
            counts[_key(node)] = (int(node in ops), 1)
        else:
            below = [counts[_key(child)] for child in node.children]
            counts[_key(node)] = (sum(hit for hit, _ in below), sum(size for _, size in below))
    return counts


def _key(node: Tree) -> int:
    """Leaves are their own name; compositions, which have no equality, are named by identity, below zero."""
    return node if isinstance(node, int) else -id(node)

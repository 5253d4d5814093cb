"""The modular decomposition of a precedence order: which sets of nodes does nothing outside tell apart?

A *module* is a set M of nodes such that every other node comes before all of M, after all of M, or is incomparable to
all of M.  The strong modules (those that overlap no other) form a tree:

    PARALLEL  the children are incomparable to each other: the components of the comparability graph
    SERIES    each child comes before the next: the components of the incomparability graph, in their order
    PRIME     neither; the children are the maximal modules

        a ──> c     b and {d, e} do not appear alike to c: the quotient is an N     PRIME(a, b, c, SERIES(d, e))
          ╲
        b ──> d ──> e

Gallai 1967 (for comparability graphs); the maximal modules of a prime node by partition refinement around one vertex
(Ehrenfeucht, Gabow, McConnell, Sullivan 1994).  O(n^2) operations on masks for each prime node, so a node above
`max_prime` members is left as one prime node of single nodes: coarser, still a tree of modules.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memsched.search.exact.problem import bits

__all__ = ["Kind", "Module", "decompose"]


class Kind(enum.Enum):
    """How the children of a module are related."""

    NODE = "node"
    PARALLEL = "parallel"
    SERIES = "series"
    PRIME = "prime"


@dataclass(frozen=True, slots=True)
class Module:
    """A module: its nodes as a mask, and its children (none for a single node); series children in their order."""

    kind: Kind
    members: int
    children: tuple[Module, ...] = ()


def decompose(ancestors: Sequence[int], descendants: Sequence[int], max_prime: int = 600) -> list[Module]:
    """The modules of the decomposition tree, children before parents, the whole order last.

    `ancestors` and `descendants` are transitive, as masks.
    """
    comparable = [before | after for before, after in zip(ancestors, descendants, strict=True)]
    finished: list[Module] = []
    results: list[Module] = []
    stack: list[tuple[int, Kind | None, int]] = [((1 << len(ancestors)) - 1, None, 0)]
    while stack:
        members, kind, num_children = stack.pop()
        if kind is not None:
            children = tuple(results[len(results) - num_children :])
            del results[len(results) - num_children :]
            module = Module(kind, members, children)
        elif members & (members - 1):
            kind, parts = _split(members, comparable, ancestors, descendants, max_prime)
            stack.append((members, kind, len(parts)))
            stack.extend((part, None, 0) for part in reversed(parts))
            continue
        else:
            module = Module(Kind.NODE, members)
        finished.append(module)
        results.append(module)
    return finished


def _split(
    members: int, comparable: Sequence[int], ancestors: Sequence[int], descendants: Sequence[int], max_prime: int
) -> tuple[Kind, list[int]]:
    """How a module of two or more nodes decomposes, and its maximal strong submodules."""
    parts = _components(members, lambda node: comparable[node])
    if len(parts) > 1:
        return Kind.PARALLEL, parts
    parts = _components(members, lambda node: ~comparable[node])
    if len(parts) > 1:
        parts.sort(key=lambda part: (ancestors[part.bit_length() - 1] & members & ~part).bit_count())
        return Kind.SERIES, parts
    if members.bit_count() > max_prime:
        return Kind.PRIME, [1 << node for node in bits(members)]
    return Kind.PRIME, _maximal_modules(members, ancestors, descendants)


def _components(members: int, neighbours: Callable[[int], int]) -> list[int]:
    """Connected components of `members`, by their least node."""
    parts = []
    while members:
        part = frontier = members & -members
        members ^= part
        while frontier:
            reached = 0
            for node in bits(frontier):
                reached |= neighbours(node)
            frontier = reached & members
            members ^= frontier
            part |= frontier
        parts.append(part)
    return parts


def _maximal_modules(members: int, ancestors: Sequence[int], descendants: Sequence[int]) -> list[int]:
    """The maximal modules of a prime set: those around its first node by refinement, then the one that holds it."""
    first = members & -members
    classes = _refine(members ^ first, first, ancestors, descendants)
    around = first
    for part in classes:
        if part & ~around:
            united = _module_around(first | part & -part, members, ancestors, descendants)
            if united != members:
                around |= united | part  # overlapping modules unite to a module
    parts = [around, *(part for part in classes if not part & around)]
    return sorted(parts, key=lambda part: part & -part)


def _refine(members: int, pivot: int, ancestors: Sequence[int], descendants: Sequence[int]) -> list[int]:
    """The maximal modules of `members` that no node outside them (the pivot included) tells apart."""
    classes = [members]
    pending = [(pivot.bit_length() - 1, members)]
    while pending:
        node, scope = pending.pop()
        before, after = ancestors[node], descendants[node]
        refined: list[int] = []
        for part in classes:
            pieces = [part]
            if part & scope:
                pieces = [piece for piece in (part & before, part & after, part & ~(before | after)) if piece]
            refined.extend(pieces)
            if len(pieces) > 1:
                pending.extend((other, part & ~piece) for piece in pieces for other in bits(piece))
        classes = refined
    return classes


def _module_around(seed: int, members: int, ancestors: Sequence[int], descendants: Sequence[int]) -> int:
    """The least module of `members` that holds `seed`: add whatever tells two of its nodes apart."""
    module, added = 0, seed
    some_before = some_after = 0
    all_before = all_after = members
    while added:
        for node in bits(added):
            some_before |= ancestors[node]
            some_after |= descendants[node]
            all_before &= ancestors[node]
            all_after &= descendants[node]
        module |= added
        added = (some_before & ~all_before | some_after & ~all_after) & members & ~module
    return module

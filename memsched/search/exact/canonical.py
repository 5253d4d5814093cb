"""Every module has one best profile: collapse it to a chain of segments by exact search.

Let a module M have no shared tensor with a reader inside and a reader outside.  Then running M changes the level by an
amount that depends on M alone, whatever runs in between.  Let front(P) be the lowest level that M can reach from its
start without climbing above P.  By the commit lemma (`valley`) one order reaches front(P) for each P in turn: the
*staircase* of record lows, down to M's lowest point.  From the end, backwards, there is another one.

    level                   The two staircases together dominate every order of M: up to the highest point of such an
      |  _                  order stay on the front stair of its running maximum, after it on the back stair; at the
      | | |   _      _      highest point itself cross everything in between.  So M may be replaced by the chain of
      |_| |  | |    | |     segments of this one order, in any surroundings, and the optimum stays.
      |   |__| |  __| |__
      |        |_|          Dominating chains compose in series and in parallel by the segment algebra (`chain`), so
      +------------- time   only prime modules, and parallel ones tied together by shared tensors, need a search.

`collapse_modules` walks the decomposition tree (`modules`) from the leaves up.  A module that search cannot finish
within its share of the budget stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.exact.chain import (
    Chain,
    Link,
    in_parallel,
    in_series,
    is_free,
    nodes_of,
    problem_of_links,
    rope_of,
    segments_in_series,
)
from memsched.search.exact.modules import Kind, Module, decompose
from memsched.search.exact.problem import Problem, bits, mask_of
from memsched.search.exact.valley import staircases
from memsched.series_parallel.segments import Segment

__all__ = ["canonical_chain", "collapse_modules"]

MAX_NODES = 2_000
"""Problems with more nodes are not decomposed: the masks alone would cost more than the search saves."""


MAX_SEARCHED = 60
"""Modules with more parts are not searched: all their stairs are needed, and no bound helps to find them."""


def canonical_chain(problem: Problem, budget: Budget) -> list[Segment] | None:
    """The dominating profile of a whole problem, as segments of its nodes; None when the budget ends first."""
    found = staircases(problem, budget)
    if found is None:
        return None
    front, back = found
    segments = [_segment(climb, fall, nodes) for climb, fall, nodes in front]
    segments += [_segment(fall, climb, nodes[::-1]) for climb, fall, nodes in reversed(back)]
    return segments_in_series(segments)


def _segment(hump: int, drop: int, nodes: Sequence[int]) -> Segment:
    return Segment(hump, drop, rope_of(nodes))


def collapse_modules(problem: Problem, budget: Budget) -> Problem:
    """The problem with every module collapsed that is clean (no shared tensor crosses its border) and affordable.

    The whole order is never searched as a module: that is what exact search is for, with bounds.
    """
    if len(problem) > MAX_NODES:
        return problem
    max_prime = isqrt(prices.PRIME_NODES_SQUARED * max(0, budget.units) // 2)
    collapse = _Collapse(problem, budget)
    for module in decompose(problem.ancestors, problem.descendants, max_prime):
        if module.kind is Kind.PRIME and len(module.children) <= max_prime:
            budget.spend(module.members.bit_count() ** 2 // prices.PRIME_NODES_SQUARED)
        collapse.visit(module)
    return collapse.problem()


class _Collapse:
    """For each collapsed module its chain; `pieces_of` lists the largest collapsed parts (or nodes) of a module."""

    def __init__(self, original: Problem, budget: Budget) -> None:
        self.original, self.budget = original, budget
        self.chain_of: dict[int, Chain] = {}
        self.pieces_of: dict[int, list[int]] = {}

    def visit(self, module: Module) -> None:
        """Collapse one module whose children have been visited."""
        members = module.members
        pieces = [piece for child in module.children for piece in self.pieces_of[child.members]]
        match module.kind:
            case Kind.NODE:
                pieces = [members]
                self.chain_of[members] = [self._link(members.bit_length() - 1)]
            case Kind.SERIES:
                pieces = self._merge_runs(module)
            case Kind.PARALLEL:
                pieces = self._merge_groups(module)
            case Kind.PRIME if members != self.original.full and self._is_clean(members):
                pieces = self._search(members, pieces)
        self.pieces_of[members] = pieces

    def _link(self, node: int) -> Segment | int:
        if self.original.shared_of[node]:
            return node
        hump = self.original.humps[node]
        return Segment(hump, hump - self.original.deltas[node], node)

    def _is_clean(self, members: int) -> bool:
        """Whether no shared tensor has readers on both sides of the border."""
        return all(not readers & ~members for node in bits(members) for _, readers in self.original.shared_of[node])

    def _is_collapsed(self, members: int) -> bool:
        return members in self.chain_of and is_free(self.chain_of[members])

    def _merge_runs(self, module: Module) -> list[int]:
        """Series: neighbours that are collapsed become one chain."""
        pieces: list[int] = []
        run: list[int] = []
        for child in [*module.children, None]:
            if child is not None and self._is_collapsed(child.members):
                run.append(child.members)
                continue
            if run:
                chain: Chain = []
                for member in run:
                    chain = in_series(chain, self.chain_of[member])
                pieces.append(self._replace(run, chain))
                run = []
            if child is not None:
                pieces.extend(self.pieces_of[child.members])
        return pieces

    def _merge_groups(self, module: Module) -> list[int]:
        """Parallel: children tied by shared tensors form a group; clean groups are searched, then all are merged."""
        free: list[int] = []
        pieces: list[int] = []
        for group in self._tied_children(module):
            members = mask_of(node for child in group for node in bits(child.members))
            parts = [piece for child in group for piece in self.pieces_of[child.members]]
            if len(group) > 1 and members != self.original.full and self._is_clean(members):
                parts = self._search(members, parts)
            if len(parts) == 1 and self._is_collapsed(parts[0]):
                free.extend(parts)
            else:
                pieces.extend(parts)
        if free:
            pieces.append(self._replace(free, in_parallel([self.chain_of[members] for members in free])))
        return pieces

    def _tied_children(self, module: Module) -> list[list[Module]]:
        """The children in groups that are connected by shared tensors."""
        groups: list[tuple[int, list[Module]]] = []
        for child in module.children:
            readers = child.members
            for node in bits(child.members):
                for _, others in self.original.shared_of[node]:
                    readers |= others
            tied = [group for group in groups if group[0] & readers]
            groups = [group for group in groups if not group[0] & readers]
            for mask, _ in tied:
                readers |= mask
            groups.append((readers, [other for _, children in tied for other in children] + [child]))
        return [children for _, children in groups]

    def _search(self, members: int, pieces: list[int]) -> list[int]:
        """Replace a clean module by its canonical chain, if search finishes; else leave its pieces."""
        if len(pieces) > MAX_SEARCHED:
            return pieces
        with self.budget.share(0.2) as part:
            links, quotient = self._quotient(pieces)
            segments = canonical_chain(quotient, part)
        if segments is None:
            return pieces
        chain: Chain = []
        for segment in segments:
            nodes = [node for at in segment.ops for node in nodes_of(links[at])]
            chain.append(Segment(segment.hump, segment.drop, rope_of(nodes)))
        return [self._replace(pieces, chain)]

    def _quotient(self, pieces: Sequence[int]) -> tuple[list[Link], Problem]:
        """The problem of some parts of the order alone, and the link that each of its nodes stands for."""
        links: list[Link] = []
        first, last = [], []
        for piece in pieces:
            first.append(len(links))
            links.extend(self.chain_of[piece])
            last.append(len(links) - 1)
        place = {piece.bit_length() - 1: at for at, piece in enumerate(pieces)}
        chosen = mask_of(place)
        above = [
            mask_of(place[node] for node in bits(self.original.ancestors[piece.bit_length() - 1] & chosen))
            for piece in pieces
        ]
        predecessors = [1 << at - 1 if at else 0 for at in range(len(links))]
        for at, before in enumerate(above):
            direct = before
            for earlier in bits(before):
                direct &= ~above[earlier]
            predecessors[first[at]] = mask_of(last[earlier] for earlier in bits(direct))
        return links, problem_of_links(self.original, links, predecessors)

    def _replace(self, pieces: Sequence[int], chain: Chain) -> int:
        """Put one chain in the place of several pieces; returns its members."""
        members = 0
        for piece in pieces:
            members |= piece
            self.chain_of.pop(piece, None)
        self.chain_of[members] = chain
        return members

    def problem(self) -> Problem:
        """The problem of what is left: one node for each link."""
        pieces = self.pieces_of[self.original.full]
        return self.original if len(pieces) == len(self.original) else self._quotient(pieces)[1]

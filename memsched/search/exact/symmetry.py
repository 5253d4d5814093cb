"""Interchangeable branches, ordered once and for all.

Experts of a mixture, heads, towers: a graph often holds copies of the same branch, and every permutation of the copies
maps orders to orders of the same peak.  A bound that must hold for all of them is weak, and a search visits them all.

        ┌─> x1 ─> y1 ─┐        swapping x1, y1 with x2, y2 changes nothing, so in some best order x1 runs before x2:
     a ─┼─> x2 ─> y2 ─┼─> b    add the precedences x1 -> x2 -> x3.  Of 3! equivalent orders one is left, and what
        └─> x3 ─> y3 ─┘        follows from x1 -> x2 (for cuts, probing, commits) may be used.

Claim: let x1, ..., xk be nodes such that for each i some automorphism of the problem (precedences, humps, deltas,
shared tensors) swaps x1 with xi and fixes the other x's.  These generate all permutations of the x's, so any order can
be mapped, with the same peak, to one in which the x's come in the order x1, ..., xk.  The chain is added, and the next
symmetry is looked for in the problem with the chain, so that the arguments do not interfere.

Candidates come from color refinement (Weisfeiler, Leman 1968): nodes of one color look alike from any distance.  A
swap is grown from x1 <-> xi over unequal neighbours, and then *checked*; a symmetry that is not found costs strength,
never truth.  Of several classes the one with the highest cut is ordered first: there a precedence helps most.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from memsched.search.budget import Budget
from memsched.search.cuts.closure import ClosureNetwork
from memsched.search.exact.problem import Problem, bits, mask_of

__all__ = ["break_symmetries", "colors", "swap_automorphism"]

MAX_NODES = 2_000
"""Larger problems are left alone: a coloring costs O(n log n) for each class that is ordered."""


def break_symmetries(problem: Problem, budget: Budget) -> Problem:
    """The problem with precedences that some order of least peak respects; every order of it is one of `problem`.

    Three units for each node that is colored.
    """
    if len(problem) > MAX_NODES:
        return problem
    while budget.spend(1 + 3 * len(problem)):
        group = _interchangeable_nodes(problem)
        if not group:
            break
        before = list(problem.predecessors)
        for first, second in pairwise(group):
            before[second] |= 1 << first
        chained = replace(problem, predecessors=tuple(before))  # acyclic: the group is an antichain
        problem = problem.with_precedences(chained.ancestors)
    return problem


def _interchangeable_nodes(problem: Problem) -> list[int]:
    """Two or more nodes that automorphisms permute freely, those with the highest cut; empty when there are none."""
    color = colors(problem)
    classes: dict[int, list[int]] = {}
    for node, number in enumerate(color):
        if problem.humps[node]:
            classes.setdefault(number, []).append(node)
    alike = [nodes for nodes in classes.values() if len(nodes) > 1]
    network = problem.closure_network()
    cut = {nodes[0]: _cut(problem, network, nodes[0]) for nodes in alike}
    alike.sort(key=lambda nodes: (-cut[nodes[0]], nodes[0]))
    for nodes in alike:
        group = nodes[:1]
        for other in nodes[1:]:
            swap = swap_automorphism(problem, color, nodes[0], other)
            if swap is not None and all(node in (nodes[0], other) or node not in swap for node in nodes):
                group.append(other)
        if len(group) > 1:
            return group
    return []


def _cut(problem: Problem, network: ClosureNetwork, node: int) -> int:
    """The fewest bytes with which `node` can run, up to a constant."""
    return network.least(bits(problem.predecessors[node]), (node,))[0] + problem.humps[node]


def colors(problem: Problem) -> list[int]:
    """A number for each node; nodes that some automorphism maps to each other have the same one."""
    color = _numbered(list(zip(problem.humps, problem.deltas, strict=True)))
    before = [list(bits(mask)) for mask in problem.predecessors]
    after = [list(bits(mask)) for mask in problem.successors]
    tensors = [(tensor.size, list(bits(tensor.readers))) for tensor in problem.shared]
    tensors_of: list[list[int]] = [[] for _ in color]
    for index, (_, readers) in enumerate(tensors):
        for reader in readers:
            tensors_of[reader].append(index)
    num_colors = 0
    while num_colors != (num_colors := len(set(color))):
        tensor_color = _numbered([(size, _sorted(color, readers)) for size, readers in tensors])
        color = _numbered(
            [
                (
                    color[node],
                    _sorted(color, before[node]),
                    _sorted(color, after[node]),
                    _sorted(tensor_color, tensors_of[node]),
                )
                for node in range(len(color))
            ]
        )
    return color


def _sorted(color: Sequence[int], nodes: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(color[node] for node in nodes))


def _numbered(values: Sequence[Hashable]) -> list[int]:
    """Equal values get equal numbers, in the order of their first occurrence."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def swap_automorphism(problem: Problem, color: Sequence[int], first: int, second: int) -> dict[int, int] | None:
    """An automorphism that swaps `first` and `second`, as the nodes that it moves; None when none was found.

    Neighbours that only one of two swapped nodes has are swapped too, those of equal color in index order.
    """
    image = {first: second, second: first}
    pending = [first]
    while pending:
        node = pending.pop()
        other = image[node]
        for neighbours in (problem.predecessors, problem.successors):
            here = sorted((color[near], near) for near in bits(neighbours[node] & ~neighbours[other]))
            there = sorted((color[near], near) for near in bits(neighbours[other] & ~neighbours[node]))
            if [number for number, _ in here] != [number for number, _ in there]:
                return None
            for (_, near), (_, far) in zip(here, there, strict=True):
                if image.get(near, far) != far or image.get(far, near) != near:
                    return None
                if near not in image:
                    image[near], image[far] = far, near
                    pending.append(near)
    return image if _is_automorphism(problem, image) else None


def _is_automorphism(problem: Problem, image: dict[int, int]) -> bool:
    """Whether the map, which fixes what it does not name, keeps precedences, humps, deltas and shared tensors.

    Every precedence between a moved and a fixed node is seen from the moved one.
    """

    def mapped(mask: int) -> int:
        return mask_of(image.get(node, node) for node in bits(mask))

    for node, other in image.items():
        if problem.humps[node] != problem.humps[other] or problem.deltas[node] != problem.deltas[other]:
            return False
        if mapped(problem.predecessors[node]) != problem.predecessors[other]:
            return False
        if mapped(problem.successors[node]) != problem.successors[other]:
            return False
    tensors = sorted((tensor.size, tensor.readers) for tensor in problem.shared)
    return tensors == sorted((tensor.size, mapped(tensor.readers)) for tensor in problem.shared)

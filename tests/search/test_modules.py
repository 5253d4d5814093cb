"""Modular decomposition against its definition, and compositions of collapsed modules against brute force."""

from __future__ import annotations

import random

from memsched.search.budget import Budget
from memsched.search.exact.canonical import canonical_chain, collapse_modules
from memsched.search.exact.modules import Kind, Module, decompose
from memsched.search.exact.problem import Problem, SharedTensor, bits, mask_of
from memsched.search.exact.valley import exact_search
from tests.oracle import random_graphs

AMPLE = 10**7


def is_module(problem: Problem, members: int) -> bool:
    """The definition: no outside node tells two members apart."""
    return all(
        mask & members in (0, members)
        for node in bits(problem.full & ~members)
        for mask in (problem.ancestors[node], problem.descendants[node])
    )


def strong_modules(problem: Problem) -> set[int]:
    """All modules that overlap no other module, by trying every subset."""
    modules = [members for members in range(1, problem.full + 1) if is_module(problem, members)]
    return {one for one in modules if not any(one & other and one & ~other and other & ~one for other in modules)}


def test_decomposition_has_exactly_the_strong_modules() -> None:
    for graph in random_graphs(150, seed=31, largest=9):
        problem = Problem.from_graph(graph)
        found = [module.members for module in decompose(problem.ancestors, problem.descendants)]
        assert len(found) == len(set(found))
        assert set(found) == strong_modules(problem)


def test_the_n_is_prime_and_its_chain_is_series() -> None:
    """a -> c, a -> d, b -> d, d -> e: the chain d, e is a module of the N.

    a ──> c
      ╲
    b ──> d ──> e
    """
    a, b, c, d = 1, 2, 4, 8
    problem = Problem((0, 0, a, a | b, d), (1,) * 5, (1,) * 5, (), 0, tuple((op,) for op in range(5)))
    *_, root = decompose(problem.ancestors, problem.descendants)
    assert root.kind is Kind.PRIME
    assert [(child.kind, child.members) for child in root.children] == [
        (Kind.NODE, a),
        (Kind.NODE, b),
        (Kind.NODE, c),
        (Kind.SERIES, 8 | 16),
    ]


def test_a_long_chain_does_not_recurse() -> None:
    ancestors = [(1 << node) - 1 for node in range(1500)]
    descendants = [((1 << 1500) - 1) & ~((2 << node) - 1) for node in range(1500)]
    *_, root = decompose(ancestors, descendants)
    assert root.kind is Kind.SERIES
    assert [child.members for child in root.children] == [1 << node for node in range(1500)]


def random_part(rng: random.Random, num_nodes: int) -> Problem:
    """Any poset with any deltas and shared tensors inside."""
    density, largest = rng.choice([0.2, 0.35, 0.5]), rng.choice([2, 6, 30])
    before = tuple(mask_of(a for a in range(b) if rng.random() < density) for b in range(num_nodes))
    deltas = tuple(rng.randint(-largest, largest) for _ in range(num_nodes))
    humps = tuple(max(0, delta) + rng.choice([0, rng.randint(0, largest)]) for delta in deltas)
    part = Problem(before, humps, deltas, (), 0, tuple((node,) for node in range(num_nodes)))
    part = part.with_precedences(part.ancestors)
    shared = {}
    for _ in range(rng.randint(0, 2) if num_nodes > 1 else 0):
        readers = mask_of(rng.sample(range(num_nodes), min(num_nodes, rng.choice([2, 2, 3]))))
        maximal = readers & ~mask_of(node for reader in bits(readers) for node in bits(part.ancestors[reader]))
        if maximal & (maximal - 1):
            shared[maximal] = rng.randint(1, largest)
    tensors = tuple(SharedTensor(size, readers) for readers, size in shared.items())
    return Problem(part.predecessors, humps, deltas, tensors, 0, part.ropes)


def composed(rng: random.Random, parts: list[Problem]) -> Problem:
    """The parts as modules of a random order of parts, which may be prime itself."""
    offsets = [sum(len(part) for part in parts[:at]) for at in range(len(parts))]
    earlier = [mask_of(a for a in range(b) if rng.random() < 0.4) for b in range(len(parts))]
    before, humps, deltas, shared = [], [], [], []
    for at, part in enumerate(parts):
        outside = mask_of(offsets[other] + node for other in bits(earlier[at]) for node in range(len(parts[other])))
        before += [outside | mask << offsets[at] for mask in part.predecessors]
        humps += part.humps
        deltas += part.deltas
        shared += [SharedTensor(tensor.size, tensor.readers << offsets[at]) for tensor in part.shared]
    ropes = tuple((node,) for node in range(len(humps)))
    whole = Problem(tuple(before), tuple(humps), tuple(deltas), tuple(shared), 0, ropes)
    return whole.with_precedences(whole.ancestors)


def least_peak(problem: Problem) -> int:
    """Exponential: the least peak by relaxation over all down-sets in order of size."""
    best = {0: problem.base}
    for _ in range(len(problem)):
        following: dict[int, int] = {}
        for done, peak in best.items():
            level = problem.memory(done)
            for node in bits(problem.full & ~done):
                if not problem.predecessors[node] & ~done:
                    other, reached = done | 1 << node, max(peak, level + problem.humps[node])
                    following[other] = min(reached, following.get(other, reached))
        best = following
    return best[problem.full]


def test_compositions_of_arbitrary_modules_stay_optimal() -> None:
    """Collapsing modules of any shape, with shared tensors inside, never costs a byte."""
    rng = random.Random(32)
    collapsed = 0
    for _ in range(300):
        parts = [random_part(rng, rng.choice([1, 2, 3, 4])) for _ in range(rng.randint(2, 4))]
        whole = composed(rng, parts)
        smaller = collapse_modules(whole, Budget(AMPLE))
        collapsed += len(smaller) < len(whole)
        optimum = least_peak(whole)
        result = exact_search(smaller, upper_bound=2**62, budget=Budget(AMPLE))
        assert result.complete
        assert result.order is not None
        assert result.lower_bound == optimum == whole.peak(smaller.lift(result.order))
    assert collapsed > 150


def test_a_canonical_chain_is_optimal_alone() -> None:
    rng = random.Random(33)
    for _ in range(200):
        part = random_part(rng, rng.randint(1, 7))
        chain = canonical_chain(part, Budget(AMPLE))
        assert chain is not None
        order = [node for segment in chain for node in segment.ops]
        assert sorted(order) == list(range(len(part)))
        assert part.peak(order) == least_peak(part)
        level = peak = 0
        for segment in chain:
            peak, level = max(peak, level + segment.hump), level + segment.net
        assert peak == least_peak(part)


def test_children_of_a_series_module_come_in_their_order() -> None:
    for graph in random_graphs(100, seed=34, largest=10):
        problem = Problem.from_graph(graph)
        for module in decompose(problem.ancestors, problem.descendants):
            if module.kind is Kind.SERIES:
                assert_in_order(problem, module)


def assert_in_order(problem: Problem, module: Module) -> None:
    before = 0
    for child in module.children:
        assert all(not before & ~problem.ancestors[node] for node in bits(child.members))
        before |= child.members

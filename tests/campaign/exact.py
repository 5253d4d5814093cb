"""Exact search, kernels, symmetry and probing against brute force: every claim that they make, on random graphs.

One instance in three is a graph with interchangeable branches, since random graphs have none.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from memsched.check.certificate import check_certificate
from memsched.check.order import check_order
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.search.budget import Budget
from memsched.search.exact.problem import Problem
from memsched.search.exact.reduce import kernelize
from memsched.search.exact.symmetry import break_symmetries
from memsched.search.exact.valley import exact_search
from memsched.search.refute.certify import forcing_certificate
from memsched.search.refute.probing import probe_bound, probe_level
from tests.oracle import KINDS, brute_force_peak, random_graph

COUNT = 20_000
ENOUGH = 10**7


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, object]:
    """`count` graphs of 4 to 14 ops; `wrong` counts graphs on which anything was claimed that does not hold."""
    rng = random.Random(seed)
    faults: list[str] = []
    states = kernel_nodes = ops = tight = 0
    for index in range(count):
        graph = branched_graph(rng) if index % 3 == 0 else random_graph(rng, rng.choice(KINDS), rng.randint(4, 14))
        optimum = brute_force_peak(graph)
        wrong = faults_of(graph, optimum, rng)
        faults += [f"{index}: {fault}" for fault in wrong[:1]]
        problem = Problem.from_graph(graph)
        states += exact_search(problem, upper_bound=2**62, budget=Budget(ENOUGH)).states
        kernel_nodes += len(kernelize(graph, Budget(ENOUGH)).problem)
        ops += len(graph)
        tight += bound_of(problem, 0, optimum) == optimum
        progress(index + 1)
    return {
        "instances": count,
        "wrong": len(faults),
        "faults": faults[:10],
        "mean_ops": ops / count,
        "mean_kernel_nodes": kernel_nodes / count,
        "mean_states": states / count,
        "probing_tight": tight / count,
    }


def faults_of(graph: Graph, optimum: int, rng: random.Random) -> list[str]:
    """What does not hold of what the methods say about one graph; empty when all is well."""
    problem = Problem.from_graph(graph)
    kernel = kernelize(graph, Budget(ENOUGH)).problem
    broken = break_symmetries(kernel, Budget(ENOUGH))
    faults = []
    for name, candidate in (("search", problem), ("kernel", kernel), ("symmetry", broken)):
        faults += [f"{name}: {fault}" for fault in _search_faults(graph, candidate, optimum)]
    faults += _anytime_faults(graph, optimum, rng)
    for name, candidate in (("probing", problem), ("probing with symmetry", broken)):
        if bound_of(candidate, 0, optimum + rng.randint(1, 50)) > optimum:
            faults.append(f"{name}: a bound above the optimum")
        stronger = probe_level(candidate, optimum, Budget(ENOUGH), range(len(candidate))).problem
        if stronger is None:
            faults.append(f"{name}: refuted the level of the optimum")
        else:
            faults += [f"{name}: {fault}" for fault in _search_faults(graph, stronger, optimum)]
    faults += _certificate_faults(graph, problem, optimum)
    return faults


def _certificate_faults(graph: Graph, problem: Problem, optimum: int) -> list[str]:
    """Where probing refutes the level below the optimum there must be a certificate, and the checker must follow it."""
    probed = probe_level(problem, optimum - 1, Budget(ENOUGH), range(len(problem)))
    if probed.problem is not None or not probed.forced:
        return []
    certificate = forcing_certificate(graph, optimum, probed.forced, Budget(ENOUGH))
    if certificate is None or not check_certificate(graph, certificate, optimum):
        return ["certificate: none for a refutation"]
    return []


def bound_of(problem: Problem, lower_bound: int, upper_bound: int) -> int:
    """The bound that probing proves with an ample budget."""
    return probe_bound(problem, lower_bound=lower_bound, upper_bound=upper_bound, budget=Budget(ENOUGH))


def _search_faults(graph: Graph, problem: Problem, optimum: int) -> list[str]:
    result = exact_search(problem, upper_bound=2**62, budget=Budget(ENOUGH))
    if not result.complete or result.order is None:
        return ["not complete"]
    order = problem.lift(result.order)
    check_order(graph, order)
    faults = []
    if result.lower_bound != optimum:
        faults.append(f"says {result.lower_bound}, the optimum is {optimum}")
    if peak_bytes(graph, order) != optimum:
        faults.append(f"an order of {peak_bytes(graph, order)}, the optimum is {optimum}")
    below = exact_search(problem, upper_bound=optimum, budget=Budget(ENOUGH))
    if not below.complete or below.lower_bound != optimum:
        faults.append("an optimal incumbent is not recognised")
    return faults


def _anytime_faults(graph: Graph, optimum: int, rng: random.Random) -> list[str]:
    incumbent = graph.topological_order
    peak = peak_bytes(graph, incumbent)
    result = exact_search(graph, upper_bound=peak, budget=Budget(rng.randint(0, 30)), incumbent=incumbent)
    if result.order is None:
        return ["anytime: no order in spite of an incumbent"]
    check_order(graph, result.order)
    reached = peak_bytes(graph, result.order)
    if not result.lower_bound <= optimum <= reached <= peak:
        return [f"anytime: {result.lower_bound} <= {optimum} <= {reached} <= {peak} does not hold"]
    return []


def branched_graph(rng: random.Random) -> Graph:
    """Copies of one random branch between a first and a last op, with an input that all copies may share.

    first ──> x1 ─> y1 ──> last        the copies are alike: sizes, workspaces and edges are the same
          ──> x2 ─> y2 ──>
    """
    copies, length = rng.choice([(2, 2), (2, 3), (2, 4), (3, 2), (3, 3), (4, 2)])
    last = 1 + copies * length
    largest = rng.choice([2, 9, 40])
    edges = [(a, b) for b in range(1, length) for a in range(b) if rng.random() < 0.6]
    sizes = [rng.randint(0, largest) for _ in range(length)]
    workspaces = [rng.choice([0, rng.randint(0, largest)]) for _ in range(length)]
    kept = [rng.random() < 0.15 for _ in range(length)]
    outside = [rng.random() < 0.5 for _ in range(length)]
    shares_first, shares_input = rng.random() < 0.6, rng.random() < 0.4
    buffers: list[Buffer] = []
    ops = [Op("first", workspace=rng.choice([0, rng.randint(0, largest)]))]
    heads = []
    for copy in range(copies):
        start = 1 + copy * length
        heads.append(start)
        for at in range(length):
            ops.append(Op(f"op{copy}.{at}", workspace=workspaces[at]))
            readers = [start + b for a, b in edges if a == at] + ([last] if outside[at] else [])
            buffers.append(Buffer(f"b{copy}.{at}", sizes[at], start + at, tuple(sorted(readers)), kept[at]))
        if not shares_first:
            buffers.append(Buffer(f"in{copy}", sizes[0] + 1, 0, (start,)))
    ops.append(Op("last"))
    if shares_first:
        buffers.append(Buffer("shared", rng.randint(1, largest), 0, tuple(heads)))
    if shares_input:
        buffers.append(Buffer("input", rng.randint(1, largest), None, tuple(start + length - 1 for start in heads)))
    return Graph("branches", tuple(ops), tuple(buffers))

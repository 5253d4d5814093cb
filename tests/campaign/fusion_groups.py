"""Fusion groups, kept up to date one fusion after the other, against a replay by the definition.

    fuse two groups of a random graph, where that makes no cycle, again and again
      ├─ is it said to be a cycle exactly when it is one?
      ├─ is the order one in which the groups can run, and its peak what a replay of it needs?
      └─ does the planner, asked at random, stay within its budget or the peak that it began with?

The replay (`tests.oracle.replayed_peak`) shares no code with memsched.
"""

from __future__ import annotations

import graphlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.fusion.choose import choose_fusions
from memsched.fusion.contract import contract
from memsched.fusion.groups import FusionCycle, Groups
from memsched.fusion.planner import FusionPlanner
from tests.oracle import KINDS, random_graph, random_order, replayed_peak

COUNT = 10_000
_FUSIONS, _QUESTIONS = 8, 15


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, object]:
    """`count` graphs of 4 to 16 ops."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    for done in range(count):
        graph = random_graph(rng, rng.choice(KINDS), rng.randint(4, 16))
        order = random_order(graph, rng)
        for check in (_groups, _planner, _choice):
            faults += [f"{done}: {fault}" for fault in check(graph, order, rng, counts)]
        progress(done + 1)
    return {"instances": count, "wrong": len(faults), "faults": faults[:10], **counts}


def _groups(graph: Graph, order: list[int], rng: random.Random, counts: Counter[str]) -> Iterator[str]:
    groups = Groups(graph, order)
    for _ in range(_FUSIONS):
        if len(groups.order()) < 2:
            return
        first, second = rng.sample(groups.order(), 2)
        fused = [first if group in (first, second) else group for group in groups.group_of]
        counts["pairs"] += 1
        try:
            placements = groups.placements(first, second)
        except FusionCycle:
            if not _has_cycle(graph, fused):
                yield "called a cycle, and is none"
            continue
        if _has_cycle(graph, fused):
            yield "a cycle that was not seen"
            return
        placement = rng.choice(placements)
        promised = groups.peak_after(placement)
        groups.fuse(placement)
        counts["fused"] += 1
        kernels = [groups.members[group] for group in groups.order()]
        replayed = replayed_peak(graph, kernels)
        if not replayed == promised == groups.peak():
            yield f"a peak of {promised} promised, {groups.peak()} kept, {replayed} replayed"
        contracted = contract(graph, kernels)
        if peak_bytes(contracted, range(len(contracted))) != replayed:
            yield "the contracted graph has another peak"


def _planner(graph: Graph, order: list[int], rng: random.Random, counts: Counter[str]) -> Iterator[str]:
    start = peak_bytes(graph, order)
    planner = FusionPlanner(graph, order, rng.choice([None, start, start * 2]), max_extra_kernels=rng.choice([None, 2]))
    for _ in range(_QUESTIONS):
        first, second = rng.sample(range(len(graph)), 2)
        counts["asked"] += 1
        if not planner.may_fuse([first], [second]) or rng.random() < 0.2:
            continue
        try:
            planner.fuse([first, second])
        except FusionCycle:
            yield "a cycle was approved"
            return
        replayed = replayed_peak(graph, planner.order())
        if replayed is None or replayed > max(planner.budget, start):
            yield f"the planner's order needs {replayed}, its budget is {planner.budget}"


def _choice(graph: Graph, order: list[int], rng: random.Random, counts: Counter[str]) -> Iterator[str]:
    budget, wanted, left = peak_bytes(graph, order), [], rng.sample(range(len(graph)), len(graph))
    while left:
        size = rng.randint(1, 3)
        wanted.append(left[:size])
        left = left[size:]
    choice = choose_fusions(graph, wanted, order, budget)
    counts["choices"] += 1
    replayed = replayed_peak(graph, choice.kernels)
    if replayed is None or replayed > budget or replayed != choice.peak:
        yield f"a choice of {choice.peak} within {budget} needs {replayed}"


def _has_cycle(graph: Graph, group_of: Sequence[int]) -> bool:
    """Whether groups would have to run before each other."""
    before: dict[int, set[int]] = {group: set() for group in group_of}
    for op, some in enumerate(graph.predecessors):
        before[group_of[op]] |= {group_of[other] for other in some} - {group_of[op]}
    try:
        tuple(graphlib.TopologicalSorter(before).static_order())
    except graphlib.CycleError:
        return True
    return False

"""What is written over its input while ops are fused: prevented by other readers in the same kernel."""

from __future__ import annotations

import random
from dataclasses import replace

from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.fusion.contract import contract
from memsched.fusion.groups import FusionCycle, Groups
from memsched.fusion.in_place import InPlace, Overwrite, shared_storages
from memsched.fusion.planner import FusionPlanner
from memsched.storage.model import AllocationModel
from memsched.storage.pieces import Piece, Reuse
from tests.oracle import random_graphs


def softmax() -> Graph:
    """scores ──> maxima ──m──┐
    └───────────────> divided ──p──> used        p may be written over the scores"""
    ops = tuple(Op(name) for name in ("scored", "maxima", "divided", "used"))
    buffers = (
        Buffer("scores", 100, 0, (1, 2)),
        Buffer("m", 1, 1, (2,)),
        Buffer("p", 100, 2, (3,)),
        Buffer("y", 10, 3, (), True),
    )
    return Graph("softmax", ops, buffers)


def test_a_fusion_that_prevents_writing_in_place_is_refused() -> None:
    """Apart 111 bytes at most: y is written while p is there.  Fused, scores, p and the maxima live together."""
    graph = softmax()
    planner = FusionPlanner(graph, range(4), in_place=InPlace(graph, {2: Overwrite(0)}))
    assert planner.budget == 110
    assert not planner.may_fuse([1], [2])
    assert FusionPlanner(graph, range(4)).may_fuse([1], [2])


def test_a_reader_of_the_same_elements_prevents_nothing() -> None:
    graph = softmax()
    planner = FusionPlanner(graph, range(4), in_place=InPlace(graph, {2: Overwrite(0, frozenset({1}))}))
    assert planner.may_fuse([1], [2])


def test_a_storage_is_handed_on_inside_of_a_kernel_but_not_beside_a_reduction() -> None:
    """x ──> a ──t──> b ──y──>: with t in registers, y is written over x; as a row of a C++ loop, t is over nothing."""
    ops = tuple(Op(name) for name in ("made", "a", "b"))
    buffers = (Buffer("x", 8, 0, (1,)), Buffer("t", 8, 1, (2,)), Buffer("y", 8, 2, (), True))
    graph = Graph("chain", ops, buffers)
    over = {1: Overwrite(0), 2: Overwrite(1)}
    fused = {0: 0, 1: 1, 2: 1}.__getitem__
    assert InPlace(graph, over).taken_over(2, fused) == 0
    assert InPlace(graph, over, reductions={1}).taken_over(2, fused) is None
    assert InPlace(graph, over, reductions={0}).taken_over(2, fused) == 0


def random_over(graph: Graph, rng: random.Random) -> dict[int, Overwrite]:
    """An output of some ops over an input of theirs that has the same size, each input once."""
    over: dict[int, Overwrite] = {}
    for op in range(len(graph)):
        for output in graph.outputs_of[op]:
            taken = {one.input for one in over.values()}
            fits = [
                source
                for source in graph.inputs_of[op]
                if source not in taken and graph.buffers[source].size == graph.buffers[output].size
                if not graph.buffers[source].kept
            ]
            if fits and rng.random() < 0.8:
                over[output] = Overwrite(rng.choice(fits))
    return over


def test_groups_have_the_peak_of_the_memory_model_and_fusing_keeps_it_exact() -> None:
    """Unfused: the peak of `AllocationModel`, which shares storages in its own way.  Fused: no more than the contracted
    graph needs with the storages that every order shares, and that no more than with a storage for every buffer."""
    rng = random.Random(3)
    shared = 0
    for drawn in random_graphs(300, seed=12, largest=12):
        graph = replace(drawn, buffers=tuple(replace(one, size=one.size % 3 + 1) for one in drawn.buffers))
        over = random_over(graph, rng)
        groups = Groups(graph, graph.topological_order, InPlace(graph, over))
        assert groups.peak() == model_of(graph, over).peak(graph.topological_order)
        for _ in range(4):
            names = groups.order()
            if len(names) < 2:
                break
            try:
                placement = groups.placements(*rng.sample(names, 2))[0]
            except FusionCycle:
                continue
            expected = groups.peak_after(placement)
            certain = groups.overwritten(placement)
            groups.fuse(placement)
            assert groups.peak() == expected
            members = [groups.members[name] for name in groups.order()]
            fused = contract(graph, members)
            apart, together = peak_bytes(fused, range(len(fused))), shared_storages(fused, certain)
            assert groups.peak() <= peak_bytes(together, range(len(fused))) <= apart
            shared += groups.peak() < apart
    assert shared > 20


def model_of(graph: Graph, over: dict[int, Overwrite]) -> AllocationModel:
    """The memory model of the same graph: no views, no concatenations, and these reuses."""
    pieces = {b.name: Piece(b.size, b.producer, frozenset(b.consumers), b.kept) for b in graph.buffers}
    reuses: list[list[Reuse]] = [[] for _ in graph.ops]
    for output, one in over.items():
        op, source = graph.buffers[output].producer, graph.buffers[one.input]
        assert op is not None
        reuses[op].append(Reuse(op, graph.buffers[output].name, source.name, frozenset(source.consumers) - {op}))
    return AllocationModel(graph, pieces, {}, {}, reuses)

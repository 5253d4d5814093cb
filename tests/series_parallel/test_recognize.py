"""The recogniser: right answers, trees that rebuild the graph, witnesses that are witnesses, no recursion on depth."""

from __future__ import annotations

import json
import random

import pytest

from memsched.check.obstruction import check_bridge, check_induced_n
from memsched.check.tree import check_decomposition, check_two_terminal
from memsched.core.graph import Buffer, Graph, Op
from memsched.render.page.tree import render_text
from memsched.render.page.tree_picture import render_svg
from memsched.series_parallel.realizer import realizer_of
from memsched.series_parallel.recognize import (
    Bridge,
    Decomposition,
    InducedN,
    TwoTerminalDecomposition,
    recognize,
    recognize_two_terminal,
)
from memsched.series_parallel.tree import (
    MAX_NESTED_DEPTH,
    Parallel,
    Series,
    from_json,
    leaves,
    parallel,
    post_order,
    series,
    to_json,
    tree_depth,
)
from tests.campaign import recogniser
from tests.oracle import random_graphs


def graph_of(num_ops: int, *edges: tuple[int, int]) -> Graph:
    """Precedences only: one byte on each edge."""
    buffers = tuple(Buffer(f"b{at}", 1, before, (after,)) for at, (before, after) in enumerate(edges))
    return Graph("edges", tuple(Op(f"op{op}") for op in range(num_ops)), buffers)


def tree_of(graph: Graph) -> object:
    found = recognize(graph)
    assert isinstance(found, Decomposition)
    check_decomposition(graph, to_json(found.tree))
    return to_json(found.tree)


def test_campaign_sample() -> None:
    """Composed graphs accepted, obstructed ones refused, every certificate verified by the checkers."""
    figures = recogniser.run(400, seed=7, progress=lambda done: None)
    assert figures["wrong"] == 0
    assert figures["accepted"] == figures["refused"] == 400
    assert figures["largest"] >= 100


def closure(graph: Graph) -> list[int]:
    """Ancestors of each op as bits: the slow obvious transitive closure."""
    above = [0] * len(graph)
    for op in graph.topological_order:
        for before in graph.predecessors[op]:
            above[op] |= above[before] | 1 << before
    return above


def has_induced_n(graph: Graph) -> bool:
    """All fours of ops, as in the definition."""
    above = closure(graph)
    ops = range(len(graph))
    below = [{d for d in ops if above[d] >> a & 1} for a in ops]
    unordered = [[b for b in ops if b != a and not above[a] >> b & 1 and not above[b] >> a & 1] for a in ops]
    return any(
        d in below[b] and c not in below[b] and c in unordered[b] and d in unordered[c]
        for a in ops
        for b in unordered[a]
        for c in below[a]
        for d in below[a]
    )


def test_an_order_is_refused_exactly_if_it_has_an_n() -> None:
    """The theorem of Valdes, Tarjan and Lawler, on every kind of random graph, in both directions."""
    refused = 0
    for graph in random_graphs(600, seed=11, largest=10):
        found = recognize(graph)
        assert isinstance(found, InducedN) == has_induced_n(graph)
        if isinstance(found, InducedN):
            refused += 1
            check_induced_n(graph, found.a, found.b, found.c, found.d)
        else:
            check_decomposition(graph, to_json(found.tree))
    assert refused > 30


def test_a_two_terminal_network_is_a_series_parallel_order() -> None:
    """Every network that is two-terminal series-parallel is vertex series-parallel; the converse fails on K22."""
    for graph in random_graphs(600, seed=12, largest=14):
        found = recognize_two_terminal(graph)
        if isinstance(found, Bridge):
            check_bridge(graph, found.corners, found.paths)
        else:
            check_two_terminal(graph, found.arcs, to_json(found.tree))
            assert isinstance(recognize(graph), Decomposition)


def test_the_diamond() -> None:
    """0 ──> 1 ──> 3 and 0 ──> 2 ──> 3, with the transitive 0 ──> 3, which changes nothing."""
    edges = (0, 1), (0, 2), (1, 3), (2, 3)
    assert tree_of(graph_of(4, *edges)) == tree_of(graph_of(4, *edges, (0, 3))) == ["S", 0, ["P", 1, 2], 3]


def test_a_complete_bipartite_block_is_an_order_but_not_a_network() -> None:
    """0 and 1 both before 2 and 3: Series(Parallel, Parallel).  As a network it holds a Wheatstone bridge,

    source ──> 0 ──> 2 ──> sink       with the four arcs between {0, 1} and {2, 3}.
           └─> 1 ──> 3 ──┘
    """
    graph = graph_of(4, (0, 2), (0, 3), (1, 2), (1, 3))
    assert tree_of(graph) == ["S", ["P", 0, 1], ["P", 2, 3]]
    found = recognize_two_terminal(graph)
    assert isinstance(found, Bridge)
    check_bridge(graph, found.corners, found.paths)


def test_the_n_and_the_wheatstone_bridge_themselves() -> None:
    """The N 0 ──> 2, 0 ──> 3, 1 ──> 3; the bridge 0 ──> 1, 0 ──> 2, 1 ──> 2, 1 ──> 3, 2 ──> 3, a chain."""
    found = recognize(graph_of(4, (0, 2), (0, 3), (1, 3)))
    assert found == InducedN(0, 1, 2, 3)
    bridge = graph_of(4, (0, 1), (0, 2), (1, 2), (1, 3), (2, 3))
    assert tree_of(bridge) == ["S", 0, 1, 2, 3]
    network = recognize_two_terminal(bridge)
    assert isinstance(network, Bridge)
    assert network.corners == (0, 1, 2, 3)


def test_numbering_does_not_matter() -> None:
    """The tree of an order is unique: renumbered ops give the renamed tree, whatever the topological order was."""
    rng = random.Random(5)
    for graph in random_graphs(200, seed=13, kinds=("two_terminal", "vertex_series_parallel"), largest=12):
        number = rng.sample(range(len(graph)), len(graph))
        edges = [(number[b], number[op]) for op in range(len(graph)) for b in graph.predecessors[op]]
        renamed = recognize(graph_of(len(graph), *edges))
        original = recognize(graph)
        assert isinstance(renamed, Decomposition) and isinstance(original, Decomposition)
        assert canonical(to_json(renamed.tree)) == canonical(to_json(original.tree), number)


def canonical(tree: object, number: list[int] | None = None) -> object:
    """The tree with its parallel children in a fixed order (recursive: small trees only)."""
    if isinstance(tree, int):
        return number[tree] if number else tree
    assert isinstance(tree, list)
    children = [canonical(child, number) for child in tree[1:]]
    return [tree[0], *(sorted(children, key=repr) if tree[0] == "P" else children)]


def test_realizer_decides_precedence() -> None:
    for graph in random_graphs(100, seed=14, kinds=("vertex_series_parallel",), largest=14):
        found = recognize(graph)
        assert isinstance(found, Decomposition)
        realizer, above = realizer_of(found.tree, len(graph)), closure(graph)
        for before in range(len(graph)):
            for after in range(len(graph)):
                assert realizer.precedes(before, after) == bool(above[after] >> before & 1)


@pytest.mark.parametrize("num_ops", [1, 2, 12_000])
def test_a_chain_is_one_series(num_ops: int) -> None:
    chain = graph_of(num_ops, *((op, op + 1) for op in range(num_ops - 1)))
    tree = tree_of(chain)
    assert tree == (0 if num_ops == 1 else ["S", *range(num_ops)])
    assert isinstance(recognize_two_terminal(chain), TwoTerminalDecomposition)


def test_a_nest_of_12_000_levels() -> None:
    """Even ops form a chain, each odd op hangs on the even one before it: no function may recurse on the depth."""
    num_ops = 12_000
    graph = graph_of(num_ops, *((op - 2 + op % 2, op) for op in range(1, num_ops)))
    found = recognize(graph)
    assert isinstance(found, Decomposition)
    assert tree_depth(found.tree) > 11_000
    data = json.loads(json.dumps(to_json(found.tree)))
    check_decomposition(graph, data)
    assert leaves(from_json(data)) == leaves(found.tree)
    assert len(render_text(graph).splitlines()) < 2000


def test_an_obstruction_deep_in_a_large_graph() -> None:
    """A chain of 10,000 ops that holds one N near its end: found without a quadratic closure."""
    edges = [(op, op + 1) for op in range(9_000)] + [(op, op + 1) for op in range(9_004, 9_999)]
    edges += [(9_000, 9_001), (9_000, 9_002), (9_001, 9_003), (9_001, 9_004), (9_002, 9_004)]
    graph = graph_of(10_000, *edges)
    found = recognize(graph)
    assert isinstance(found, InducedN)
    check_induced_n(graph, found.a, found.b, found.c, found.d)


def test_trees_are_flat_and_come_back_from_json() -> None:
    assert to_json(series([0, series([1, 2]), parallel([3, parallel([4, 5])])])) == ["S", 0, 1, 2, ["P", 3, 4, 5]]
    deep: Series | Parallel | int = 0
    for op in range(1, 4 * MAX_NESTED_DEPTH):
        deep = series([deep, op]) if op % 2 else parallel([deep, op])
        if op % 13:
            continue
        data = to_json(deep)
        assert to_json(from_json(data)) == data
        assert isinstance(data, list)
        assert (data[0] == "postfix") == (tree_depth(deep) > MAX_NESTED_DEPTH)
    for node in post_order(deep):
        assert isinstance(node, int) or all(type(child) is not type(node) for child in node.children)


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        (["S", 0, ["P", 1, 2]], "op 3 is missing"),
        (["S", 0, ["P", 1, 2], 2, 3], "op 2 occurs twice"),
        (["S", 0, ["P", 1, 2], 4], "leaf 4 is not one of 4"),
        (["S", 0, ["P", 1, 2], True], "neither a leaf"),
        (["S", 0, ["P", 1], 2, 3], "P of 1"),
        (["S", 0, [], 3], "neither a leaf"),
        (["S", 0, 1, 2, 3], "runs op 1 before op 2, which the graph does not ask for"),
        (["S", 0, ["P", 1, 2, 3]], "does not run op 1 before op 3"),
        (["S", 3, ["P", 1, 2], 0], "does not run op 0 before op 1"),
        (["postfix", 0, 1, "P2", 2, 3], "3 roots"),
        (["postfix", 0, "S2"], "where 1 parts"),
        (["postfix", 0, "Q2"], "neither a leaf"),
        (None, "neither a leaf"),
        ({"S": 1}, "neither a leaf"),
    ],
)
def test_checker_refuses_wrong_trees(tree: object, fault: str) -> None:
    """The diamond 0 ──> 1, 2 ──> 3 and trees that are not its own."""
    with pytest.raises(ValueError, match=fault):
        check_decomposition(graph_of(4, (0, 1), (0, 2), (1, 3), (2, 3)), tree)


def test_checker_refuses_every_other_small_tree() -> None:
    """A tree is accepted for a graph exactly if both stand for the same order: all pairs of random orders of 5 ops."""
    graphs = list(random_graphs(60, seed=15, kinds=("vertex_series_parallel", "in_tree"), largest=5))
    graphs = [graph for graph in graphs if len(graph) == 5]
    assert len(graphs) > 10
    for graph in graphs:
        for other in graphs:
            same = closure(graph) == closure(other)
            try:
                check_decomposition(graph, tree_of(other))
                accepted = True
            except ValueError:
                accepted = False
            assert accepted == same


def test_checkers_refuse_wrong_witnesses() -> None:
    """The N 0 ──> 2, 0 ──> 3, 1 ──> 3 with its ops in any other sequence; a bridge with two paths that meet."""
    graph = graph_of(5, (0, 2), (0, 3), (1, 3), (3, 4))
    check_induced_n(graph, 0, 1, 2, 3)
    for ops in ((1, 0, 2, 3), (0, 1, 3, 2), (0, 1, 2, 2), (0, 1, 2, 9), (0, 3, 2, 4)):
        with pytest.raises(ValueError, match="N: "):
            check_induced_n(graph, *ops)
    check_induced_n(graph, 0, 1, 2, 4)  # implied precedences count
    bridge = graph_of(5, (0, 1), (0, 2), (1, 4), (4, 2), (1, 3), (2, 3))
    good = ((0, 1), (0, 2), (1, 4, 2), (1, 3), (2, 3))
    check_bridge(bridge, (0, 1, 2, 3), good)
    for paths in (good[:4], ((0, 1), (0, 1, 4, 2), *good[2:]), (*good[:3], (1, 4, 2, 3), (2, 3)), (*good[:4], (3, 2))):
        with pytest.raises(ValueError, match="bridge: "):
            check_bridge(bridge, (0, 1, 2, 3), paths)


def test_checker_refuses_wrong_networks() -> None:
    """The diamond's network, with two arcs exchanged, and with an arc that the graph does not have."""
    graph = graph_of(4, (0, 1), (0, 2), (1, 3), (2, 3))
    found = recognize_two_terminal(graph)
    assert isinstance(found, TwoTerminalDecomposition)
    check_two_terminal(graph, found.arcs, to_json(found.tree))
    swapped = list(found.arcs)
    swapped[1], swapped[3] = swapped[3], swapped[1]
    with pytest.raises(ValueError, match="tree: "):
        check_two_terminal(graph, swapped, to_json(found.tree))
    with pytest.raises(ValueError, match="arcs: "):
        check_two_terminal(graph, [*found.arcs[:-1], (0, 3)], to_json(found.tree))


def test_pictures_and_text_name_every_op() -> None:
    """Both forms, for accepted and refused graphs; names that XML would misread are escaped."""
    from xml.etree import ElementTree

    for graph in random_graphs(30, seed=16, largest=12):
        ops = tuple(Op(f"<{op.name}>&", workspace=op.workspace) for op in graph.ops)
        named = Graph("a & b", ops, graph.buffers, graph.order_edges)
        text = render_text(named, segments=True)
        picture = "".join(ElementTree.fromstring(render_svg(named, segments=True)).itertext())
        found = recognize(named)
        shown = range(len(ops)) if isinstance(found, Decomposition) else (found.a, found.b, found.c, found.d)
        for op in shown:
            assert ops[op].name in text
            assert ops[op].name in picture

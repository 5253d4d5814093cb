"""What a fusion brings and costs: the incremental score is that of the graph contracted from scratch."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from memsched.check.order import check_order
from memsched.cli import main
from memsched.core.graph import Buffer, Graph, GraphError, Op
from memsched.core.peak import peak_bytes
from memsched.files.graph_file import write_graph
from memsched.fusion.choose import choose_fusions, num_fusions
from memsched.fusion.contract import contract, kernels_of
from memsched.fusion.groups import FusionCycle, Groups
from memsched.fusion.planner import FusionPlanner
from memsched.fusion.score import candidate_pairs, score_fusion
from memsched.records.tradeoff import TradePoint, frontier
from memsched.render.text.pareto import draw_tradeoff, tradeoff_table
from tests.oracle import brute_force_peak, random_graphs


def traffic(graph: Graph) -> int:
    """Bytes read and written when every op moves whole buffers: each buffer is written once, read once by each op."""
    return sum(buffer.size * (len(buffer.consumers) + (buffer.producer is not None)) for buffer in graph.buffers)


def test_scores_are_those_of_the_contracted_graph() -> None:
    """Traffic saved is the difference of two graphs' traffic; the peak change that of two replayed peaks."""
    rng, scored = random.Random(1), 0
    for graph in random_graphs(300, seed=11, largest=12):
        groups = Groups(graph, graph.topological_order)
        for _ in range(6):
            names = groups.order()
            if len(names) < 2:
                break
            first, second = rng.sample(names, 2)
            try:
                placement = groups.placements(first, second)[0]
            except FusionCycle:
                continue
            before = contract(graph, [groups.members[name] for name in groups.order()])
            score = score_fusion(groups, first, second)
            groups.fuse(placement)
            after = contract(graph, [groups.members[name] for name in groups.order()])
            everything = range(len(after))
            check_order(after, everything)
            assert score.traffic == traffic(before) - traffic(after)
            assert score.peak_change == peak_bytes(after, everything) - peak_bytes(before, range(len(before)))
            scored += 1
    assert scored > 800


def branches(num_branches: int) -> Graph:
    """x -> (a_i -> b_i), each a_i 4 bytes, each b_i 1 byte kept; fusing all a_i keeps all their outputs alive.

        ┌─4─ a0 ─4─> b0 ─1─>
    x ──┼─4─ a1 ─4─> b1 ─1─>       one branch at a time: 4 (x) + 4 + the results
        └─4─ a2 ─4─> b2 ─1─>       all a_i in one kernel: 4 + 12
    """
    ops, buffers = [], [Buffer("x", 4, None, tuple(range(0, 2 * num_branches, 2)))]
    for at in range(num_branches):
        ops += [Op(f"a{at}"), Op(f"b{at}")]
        buffers += [Buffer(f"y{at}", 4, 2 * at, (2 * at + 1,)), Buffer(f"z{at}", 1, 2 * at + 1, (), True)]
    return Graph("branches", tuple(ops), tuple(buffers))


def test_horizontal_fusions_cost_what_they_keep_alive() -> None:
    graph = branches(3)
    planner = FusionPlanner(graph, range(6))
    assert planner.budget == 4 + 4 + 2, "x, the last y, and two results"
    assert not planner.may_fuse([0], [2]), "x and two y at least"
    (refusal,) = planner.standing_refusals()
    assert (refusal.price, refusal.traffic) == (4 + 8 + 1 - 10, 4), "x, two y and a result; x is read once less"
    assert planner.may_fuse([0], [1]), "a branch by itself costs nothing"


def test_a_refused_fusion_comes_back_when_the_order_makes_room() -> None:
    """p and q fit into one kernel only when the chain k of 6 bytes runs first, which the plan's order does not do.

    order p k l q: pq either comes early, and both outputs stay alive through k, or late, and x does.
    """
    ops = tuple(map(Op, ("p", "k", "l", "q", "end")))
    buffers = (
        Buffer("x", 3, None, (0, 3)),
        Buffer("p", 2, 0, (4,)),
        Buffer("q", 2, 3, (4,)),
        Buffer("k", 6, 1, (2,)),
        Buffer("l", 0, 2, (4,)),
        Buffer("out", 1, 4, (), True),
    )
    graph = Graph("room", ops, buffers)
    order = (0, 1, 2, 3, 4)
    stiff = FusionPlanner(graph, order, budget=9, room_units=0)
    assert not stiff.may_fuse([0], [3]) or stiff.groups.peak() > 9
    planner = FusionPlanner(graph, order, budget=9)
    assert planner.may_fuse([0], [3])
    planner.fuse([0, 3])
    assert planner.groups.peak() <= 9


def test_what_no_order_has_room_for_stays_refused() -> None:
    """Room is never found where the contracted graph's optimum is above the budget, and always within it when found."""
    found = refused = 0
    for graph in random_graphs(150, seed=4, largest=9):
        planner = FusionPlanner(graph, graph.topological_order, budget=brute_force_peak(graph))
        for op, other in candidate_pairs(graph):
            try:
                planner.groups.placements(planner.groups.group_of[op], planner.groups.group_of[other])
            except (FusionCycle, KeyError):
                continue
            pairs = [[op, other]] + [[rest] for rest in range(len(graph)) if rest not in (op, other)]
            best = brute_force_peak(contract(graph, pairs))
            if planner.may_fuse([op], [other]):
                found += 1
                assert best <= max(planner.budget, planner.groups.peak())
            else:
                refused += 1
    assert found > 100 and refused > 30


def test_the_choice_keeps_the_budget_and_most_fusions() -> None:
    graph = branches(4)
    wanted = [[0, 2, 4, 6], [1], [3], [5], [7]]
    everything = choose_fusions(graph, wanted, range(8), budget=100)
    assert num_fusions(everything.kernels) == 3 and not everything.refused
    tight = choose_fusions(graph, wanted, range(8), budget=15)
    assert tight.peak <= 15
    assert 1 <= num_fusions(tight.kernels) < 3
    assert tight.refused


def test_few_extra_kernels_cost_memory() -> None:
    """`max_extra_kernels` bounds what refusals cost; the budget gives way by as little as that takes."""
    graph = branches(5)
    peaks = []
    for most in (0, 1, 2, 4):
        planner = FusionPlanner(graph, range(10), max_extra_kernels=most)
        for _ in range(3):
            for op in range(2, 10, 2):
                if planner.may_fuse([0], [op]):
                    planner.fuse([0, op])
        kernels = 5 - sum(len(ops) - 1 for ops in planner.order())
        assert kernels - 1 <= most
        peaks.append(planner.groups.peak())
    assert peaks == sorted(peaks, reverse=True) and peaks[0] > peaks[-1]


def test_kernels_are_recovered_from_the_names_of_fused_ops() -> None:
    ops = tuple(map(Op, ("a", "b_1", "c")))
    graph = Graph("g", ops, (Buffer("x", 1, 0, (1,)), Buffer("y", 1, 1, (2,))))
    fused = Graph("g", (Op("a_b_1"), Op("c")), (Buffer("y", 1, 0, (1,)),))
    assert kernels_of(graph, fused) == [[0, 1], [2]]
    with pytest.raises(GraphError, match="'d'"):
        kernels_of(graph, Graph("g", (Op("a"), Op("d")), ()))
    with pytest.raises(GraphError, match="'c'"):
        kernels_of(graph, Graph("g", (Op("a_b_1"),), ()))


def test_frontier_holds_what_nothing_beats() -> None:
    points = [TradePoint("a", 10, 5), TradePoint("b", 12, 5), TradePoint("c", 8, 7), TradePoint("d", 8, 9)]
    assert [point.label for point in frontier(points)] == ["a", "c"]


def test_the_command_lists_fusions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = branches(3)
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    write_graph(before, graph)
    fused = contract(graph, [[0, 2, 4], [1], [3], [5]])
    write_graph(after, fused)
    assert main(["fusions", str(before), str(after), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["format"] == "memsched-fusions/1" and found["peak"] <= found["budget"]
    assert {row["decision"] for row in found["rows"]} == {"refused"}
    assert main(["fusions", str(before), str(after), "--budget", "1MiB"]) == 0
    assert "2 accepted" in capsys.readouterr().out
    assert main(["fusions", str(before)]) == 0
    assert "possible" in capsys.readouterr().out
    assert main(["fusions", str(after), str(before)]) == 2
    assert "before.json: ops: " in capsys.readouterr().err


POINTS = [
    TradePoint("stock", 40, 10, seconds=0.5),
    TradePoint("plan, slack 0", 10, 14, 4, 9, seconds=0.5),
    TradePoint("plan, slack 0.1", 10, 14, 4, 9, seconds=0.5),
    TradePoint("plan, slack 1", 20, 11, 1, 9, seconds=0.5),
]


def test_the_trade_as_a_table_and_as_a_figure() -> None:
    rows = tradeoff_table(POINTS)
    assert [row[-1] for row in rows[1:]] == ["frontier", "frontier", "", "frontier"]
    assert rows[2][:4] == ("plan, slack 0", "10 bytes", "0.25", "14")
    pytest.importorskip("matplotlib")
    figure = draw_tradeoff(POINTS, "a model", "svg")
    assert figure.startswith(b"<?xml") and figure == draw_tradeoff(POINTS, "a model", "svg"), "the same file again"


@pytest.mark.parametrize("arguments", [["--budget", "0.q"], ["--slack", "-1"], ["-o", "trade.txt"]])
def test_a_sweep_that_cannot_be_made_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pareto", "no.such:model", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("memsched: ") and told.count("\n") == 1

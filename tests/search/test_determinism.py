"""Same graph, same options: the same plan, byte for byte, whatever the hash seed, the threads or the names of ops."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.orders.shapes import layered
from memsched.core.graph import Graph, Op
from memsched.files.graph_file import write_graph
from tests.oracle import random_graph
from tests.paths import ROOT

SOLVE_ALL = """
import json, sys
from memsched.files.graph_file import read_graph
from memsched.files.plan_file import plan_to_json
from memsched.core.result import Options
from memsched.search.solver import solve
for path in sys.argv[1:]:
    graph = read_graph(path)
    options = Options(time_limit_s=60.0, work_limit=3000, use_ilp=False)
    plan = plan_to_json(graph, solve(graph, options))
    del plan["seconds"], plan["name"]
    print(json.dumps(plan))
"""


def graphs() -> list[Graph]:
    """Shared tensors, series-parallel and not, closed by search and left open: every stage has its say."""
    kinds = ("general", "vertex_series_parallel", "out_tree")
    return [random_graph(random.Random(seed), kinds[seed % 3], 20 + 5 * seed, shared=True) for seed in range(6)] + [
        layered(120, width=12)
    ]


def renamed(graph: Graph, seed: int) -> Graph:
    names = [f"n{number}" for number in range(len(graph.ops))]
    random.Random(seed).shuffle(names)
    ops = tuple(Op(name, op.kind, op.workspace) for name, op in zip(names, graph.ops, strict=True))
    return Graph("renamed", ops, graph.buffers, graph.order_edges)


def plans(paths: list[Path], **environment: str) -> list[str]:
    finished = subprocess.run(
        [sys.executable, "-c", SOLVE_ALL, *map(str, paths)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return finished.stdout.splitlines()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[str]]:
    folder = tmp_path_factory.mktemp("graphs")
    paths = [folder / f"{index}.json" for index in range(len(graphs()))]
    for path, graph in zip(paths, graphs(), strict=True):
        write_graph(path, graph)
    return paths, plans(paths, PYTHONHASHSEED="0", OMP_NUM_THREADS="1")


def test_some_graph_is_left_open_and_no_clock_decided(reference: tuple[list[Path], list[str]]) -> None:
    """Otherwise the tests below would say little."""
    statuses: list[dict[str, Any]] = [json.loads(plan) for plan in reference[1]]
    assert any(plan["status"] == "bounded" for plan in statuses)
    assert len({plan["method"] for plan in statuses}) > 1


@pytest.mark.parametrize("hash_seed", ["1", "2", "3", "77", "1000", "65537", "4294967295", "random"])
def test_same_plan_for_every_hash_seed(reference: tuple[list[Path], list[str]], hash_seed: str) -> None:
    paths, expected = reference
    assert plans(paths, PYTHONHASHSEED=hash_seed) == expected


def test_same_plan_for_two_threads(reference: tuple[list[Path], list[str]]) -> None:
    paths, expected = reference
    assert plans(paths, OMP_NUM_THREADS="2", MKL_NUM_THREADS="2", PYTHONHASHSEED="random") == expected


def test_same_plan_for_shuffled_names(reference: tuple[list[Path], list[str]], tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.json" for index in range(len(graphs()))]
    for seed, (path, graph) in enumerate(zip(paths, graphs(), strict=True)):
        write_graph(path, renamed(graph, seed))
    assert plans(paths, PYTHONHASHSEED="random") == reference[1]

"""What a unit of work takes on this machine, by stage: `python -m bench prices`.

`memsched/search/prices.py` has fixed prices, so that every machine stops a search at the same place.  A unit stands for
about 50 microseconds.  Here each stage gets units to spend on captured graphs, and its CPU time is divided by what it
spent: far above 50, the stage is too cheap and a time limit is overrun; far below, it stops earlier than it must.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from bench.paths import INSTANCES
from memsched.core.graph import Graph
from memsched.core.result import Options
from memsched.files.graph_file import read_graph
from memsched.search import stages
from memsched.search.solver import Stage
from memsched.search.state import State

__all__ = ["main", "microseconds_per_unit"]

STAGES = (
    Stage("cut", stages.cut),
    Stage("series-parallel", stages.series_parallel),
    Stage("local", stages.local),
    Stage("valley", stages.valley),
    Stage("probe", stages.probe),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """One line for each stage."""
    parser = argparse.ArgumentParser(prog="python -m bench prices", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=INSTANCES, metavar="DIR", help="of captured graphs")
    parser.add_argument("--units", type=int, default=5_000, metavar="N", help="for each stage and graph")
    options = parser.parse_args(arguments)
    graphs = [read_graph(path) for path in sorted(options.folder.glob("*.json.gz"))]
    for stage in STAGES:
        spent, seconds = microseconds_per_unit(stage, graphs, options.units)
        each = f"{seconds / spent * 1e6:6.0f} microseconds of CPU each" if spent else "nothing was spent"
        print(f"{stage.name:16} {spent:8,} units, {each}", flush=True)
    return 0


def microseconds_per_unit(stage: Stage, graphs: Sequence[Graph], units: int) -> tuple[int, float]:
    """Units that the stage spent on all graphs, and its CPU seconds; each graph from Inductor's orders."""
    spent, seconds = 0, 0.0
    for graph in graphs:
        state = State.start(graph, Options(time_limit_s=60.0, work_limit=units))
        stages.stock(state)
        began = time.thread_time()
        stage.run(state)
        seconds += time.thread_time() - began
        spent += units - max(0, state.budget.units)
    return spent, seconds

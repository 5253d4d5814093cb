"""How does `solve` scale?  `python -m bench scale [--ops 20000] [--time-limit 5]`: seconds and memory by stage.

Chains, wide graphs (one source, one sink, everything else between), layered graphs (20 ops wide) and series-parallel
graphs; see `bench.orders.shapes`.  Columns: CPU seconds of every stage, of the whole, and the largest resident size.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import time
from collections.abc import Sequence

from bench.orders.shapes import SHAPES
from memsched.core.result import Options
from memsched.search import solver
from memsched.search.state import State


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each kind of graph."""
    parser = argparse.ArgumentParser(prog="python -m bench scale", description=__doc__.splitlines()[0])
    parser.add_argument("--ops", type=int, default=20_000)
    parser.add_argument("--time-limit", type=float, default=5.0)
    parser.add_argument("--kind", choices=tuple(SHAPES), action="append")
    arguments = parser.parse_args(argv)
    plain = solver._STAGES_OF["auto"]
    for kind in arguments.kind or SHAPES:
        graph = SHAPES[kind](arguments.ops)
        seconds: dict[str, float] = {}
        stages = tuple(_timed(stage, seconds) for stage in plain)
        solver._STAGES_OF["auto"] = stages
        started = time.process_time()
        schedule = solver.solve(graph, Options(time_limit_s=arguments.time_limit))
        total = time.process_time() - started
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        shares = ", ".join(f"{name} {spent:.2f}" for name, spent in seconds.items())
        print(
            f"{kind:16} {arguments.ops} ops: {total:6.2f} s CPU, {schedule.seconds:6.2f} s wall, {memory:.2f} GiB; "
            f"{schedule.status.value}, gap {schedule.gap:.2%}, {schedule.method}; {shares}; {schedule.note}",
            flush=True,
        )
    return 0


def _timed(stage: solver.Stage, seconds: dict[str, float]) -> solver.Stage:
    def run(state: State) -> None:
        started = time.process_time()
        try:
            stage.run(state)
        finally:
            seconds[stage.name] = seconds.get(stage.name, 0.0) + time.process_time() - started

    return dataclasses.replace(stage, run=run)

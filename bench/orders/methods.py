"""Every method on every graph: how near to the best known peak, how often proved, how long.

A graph's *best* is the least peak of the methods compared here and of what is on record.  Inductor's four orders count
one by one, and as "stock" together: Inductor keeps the best of them by its own estimate.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memsched.check.order import check_order
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Options, Status
from memsched.files.graph_file import read_graph
from memsched.search.orders.inductor import stock_orders
from memsched.search.solver import solve

__all__ = ["DEFAULT_METHODS", "Score", "compare", "score_table", "scores"]

DEFAULT_METHODS = ("incoming", "lpmf", "bfs", "dfs", "stock", "xla", "serenity", "sp", "valley", "local", "auto")
"""The methods that answer in seconds; `ilp`, `cbc`, `cpsat` and others of the solver can be asked for."""

_SINGLE = ("incoming", "lpmf", "bfs", "dfs")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one method gave for one graph; bytes, seconds, and whether it proved the peak optimal."""

    peak: int
    proved: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Score:
    """One method over all graphs; ratios are peak over best."""

    method: str
    mean_ratio: float
    worst_ratio: float
    at_best: float
    proved: float
    mean_seconds: float
    worst_seconds: float


def compare(
    paths: Sequence[Path],
    known: Mapping[str, int],
    methods: Sequence[str],
    time_limit: float,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Score]:
    """The score of every method over the graphs; `known` has the least peak on record by the graph's file name."""
    answers: dict[str, dict[str, Answer]] = {method: {} for method in methods}
    best: dict[str, int] = {}
    for at, path in enumerate(paths):
        graph, name = read_graph(path), path.name.split(".json")[0]
        tell(f"[{at + 1}/{len(paths)}] {name}: {len(graph.ops)} ops")
        for method in methods:
            answers[method][name] = _answer(graph, method, time_limit)
        found = (answers[method][name].peak for method in methods)
        best[name] = min([*found, *([known[name]] if name in known else [])])
    return scores(answers, best)


def scores(answers: Mapping[str, Mapping[str, Answer]], best: Mapping[str, int]) -> list[Score]:
    """Means, worst cases and shares."""
    made = []
    for method, by_graph in answers.items():
        ratios = [answer.peak / best[name] if best[name] else 1.0 for name, answer in by_graph.items()]
        seconds = [answer.seconds for answer in by_graph.values()]
        made.append(
            Score(
                method=method,
                mean_ratio=math.exp(statistics.fmean(map(math.log, ratios))),
                worst_ratio=max(ratios),
                at_best=_share(ratio == 1.0 for ratio in ratios),
                proved=_share(answer.proved for answer in by_graph.values()),
                mean_seconds=statistics.fmean(seconds),
                worst_seconds=max(seconds),
            )
        )
    return made


def score_table(found: Sequence[Score], graphs: int) -> str:
    """The scores as Markdown."""
    header = ("method", "mean of best", "worst of best", "at best", "proved optimal", "mean s", "worst s")
    lines = [f"{graphs} graphs", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for score in found:
        cells = (
            score.method, f"{score.mean_ratio:.4f}", f"{score.worst_ratio:.3f}", f"{score.at_best:.0%}",
            f"{score.proved:.0%}", f"{score.mean_seconds:.3f}", f"{score.worst_seconds:.2f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _answer(graph: Graph, method: str, time_limit: float) -> Answer:
    started = time.perf_counter()
    if method in _SINGLE:
        peak = peak_bytes(graph, stock_orders(graph)[method])
        return Answer(peak, False, time.perf_counter() - started)
    schedule = solve(graph, Options(time_limit, method=method))
    check_order(graph, schedule.order)
    return Answer(schedule.peak, schedule.status is Status.OPTIMAL, time.perf_counter() - started)


def _share(holds: Iterable[bool]) -> float:
    found = list(holds)
    return sum(found) / len(found)

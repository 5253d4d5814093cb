"""Pictures of the experiments: accuracy against samples, accuracy against K, latency against the size of a queue."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.experts.claims import Row

__all__ = ["FIGURES", "draw"]

FIGURES = ("patches", "budget", "queues")
"""Experiments that have a picture."""


def draw(name: str, rows: Sequence[Row], file: Path) -> None:
    """The picture of the experiment `name` as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 3.6), layout="constrained")
    {"patches": _patches, "budget": _budget, "queues": _queues}[name](axes, rows)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _patches(axes: Any, rows: Sequence[Row]) -> None:
    samples = [row for row in rows if row["what"] == "samples"]
    for network in dict.fromkeys(row["network"] for row in samples):
        _curve(axes, [row for row in samples if row["network"] == network], "samples", "accuracy", network)
    axes.set(xscale="log", xlabel="training images", ylabel="accuracy")


def _budget(axes: Any, rows: Sequence[Row]) -> None:
    rules = dict.fromkeys(row["rule"] for row in rows if row.get("trained") == "K=2" and "setting" in row)
    for rule in rules:
        part = [row for row in rows if row["rule"] == rule]
        settings = sorted({row["setting"] for row in part})
        means = [[row for row in part if row["setting"] == setting] for setting in settings]
        points = sorted(
            (statistics.mean(row["mean K"] for row in some), statistics.mean(row["accuracy"] for row in some))
            for some in means
        )
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=rule)
    axes.set(xlabel="experts for each input, on average", ylabel="accuracy")


def _queues(axes: Any, rows: Sequence[Row]) -> None:
    runs = [row for row in rows if row["what"] == "run" and not row["timeout"]]
    for load in sorted({row["load"] for row in runs}):
        _curve(axes, [row for row in runs if row["load"] == load], "B", "mean ms", f"load {load}")
    axes.set(xscale="log", yscale="log", xlabel="size of a queue", ylabel="mean latency, ms")


def _curve(axes: Any, rows: Sequence[Row], x: str, y: str, label: str) -> None:
    """Means over seeds, with their standard deviation as bars."""
    at = sorted({row[x] for row in rows})
    values = [[row[y] for row in rows if row[x] == one] for one in at]
    bars = [statistics.stdev(some) if len(some) > 1 else 0.0 for some in values]
    axes.errorbar(
        at, [statistics.mean(some) for some in values], bars, marker="o", markersize=3, capsize=2, label=label
    )

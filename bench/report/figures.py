"""The figures of a report, each from the rows alone; None where the rows do not hold what it shows."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

from bench.report.tables import Group

__all__ = ["FIGURES", "draw"]

_COLORS = {"stock": "#d1495b", "memsched": "#00798c"}
_POLICIES = ("none", "block", "second", "selective", "budget-0.3", "budget-0.5", "budget-0.7")


def draw(groups: Sequence[Group]) -> dict[str, bytes]:
    """PNGs by name, of the figures that have data."""
    import matplotlib

    matplotlib.use("Agg")
    pictures = {}
    for name, make in FIGURES.items():
        figure = make(groups)
        if figure is not None:
            image = io.BytesIO()
            figure.savefig(image, format="png", dpi=100, metadata={"Software": None})
            pictures[name] = image.getvalue()
    return pictures


def _axes(width: float = 7, height: float = 4.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _peaks(groups: Sequence[Group]) -> Any:
    """Measured peak over eager's, for each setting."""
    chosen = [g for g in groups if g.ratio("peak", "memsched", "eager") and g.ratio("peak", "stock", "eager")]
    if not chosen:
        return None
    chosen.sort(key=lambda group: group.ratio("peak", "memsched", "stock") or 1, reverse=True)
    figure, axes = _axes(7, 1.2 + 0.28 * len(chosen))
    for mode, shift in (("stock", 0.2), ("memsched", -0.2)):
        ratios = [group.ratio("peak", mode, "eager") or 0 for group in chosen]
        axes.barh([at + shift for at in range(len(chosen))], ratios, 0.38, color=_COLORS[mode], label=mode)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_yticks(range(len(chosen)), [_label(group) for group in chosen], fontsize=8)
    axes.set_ylim(-0.6, len(chosen) - 0.4)
    axes.set(xlabel="measured peak of a step, of eager's", title="Peak of a training step")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _increase(groups: Sequence[Group]) -> Any:
    """How much compile raises the peak over eager with the same checkpoints, measured or modelled."""
    chosen = [g for g in groups if g.bytes_ratio("stock", "eager") is not None]
    policies = [policy for policy in _POLICIES if any(g.case.policy == policy for g in chosen)]
    if not policies:
        return None
    figure, axes = _axes(8, 4.2)
    own = {group.case.model: group.case.batch for group in reversed(chosen)}
    for mode, shift in (("stock", -0.15), ("memsched", 0.15)):
        points = [
            (policies.index(g.case.policy) + shift, ratio, g.case.batch / own[g.case.model])
            for g in chosen
            if g.case.policy in policies and (ratio := g.bytes_ratio(mode, "eager")) is not None
        ]
        if points:
            x, y, scale = zip(*points, strict=True)
            sizes = [22 * factor for factor in scale]
            axes.scatter(x, y, sizes, color=_COLORS[mode], alpha=0.6, lw=0, label=mode)
    axes.axhline(1, color="black", lw=0.8)
    axes.set_xticks(range(len(policies)), policies)
    axes.set(ylabel="peak, of eager's", title="Compile against eager, by checkpoint policy")
    axes.set_xlabel("a point is a model at a batch size; its area grows with the batch size")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _times(groups: Sequence[Group]) -> Any:
    """Peak against step time, both over stock's."""
    points = [
        (time, peak, group)
        for group in groups
        if (time := group.time_ratio("memsched", "stock")) and (peak := group.ratio("peak", "memsched", "stock"))
    ]
    if not points:
        return None
    figure, axes = _axes()
    axes.scatter([time for time, _, _ in points], [peak for _, peak, _ in points], 26, color=_COLORS["memsched"], lw=0)
    for time, peak, group in points:
        if peak < 0.85 or abs(time - 1) > 0.05:
            axes.annotate(_label(group), (time, peak), (4, 3), textcoords="offset points", fontsize=7)
    axes.axhline(1, color="black", lw=0.8)
    axes.axvline(1, color="black", lw=0.8)
    axes.set(xlabel="step time, of stock's", ylabel="measured peak, of stock's", title="What less memory costs")
    return figure


def _planned(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [graph for group in groups for graph in group.modes.get("memsched", {}).get("graphs", ()) if graph["bound"]]


def _gaps(groups: Sequence[Group]) -> Any:
    """How far the planned peaks are from their bounds."""
    gaps = [graph["peak"] / graph["bound"] - 1 for graph in _planned(groups)]
    if not gaps:
        return None
    figure, axes = _axes()
    edges = (0, 1e-9, 0.001, 0.01, 0.05, 0.1, 0.2, float("inf"))
    names = ("0", "to 0.1%", "to 1%", "to 5%", "to 10%", "to 20%", "more")
    counts = [sum(low <= gap < high for gap in gaps) for low, high in itertools.pairwise(edges)]
    bars = axes.bar(names, counts, color=_COLORS["memsched"])
    axes.bar_label(bars, fontsize=8)
    axes.set(xlabel="modelled peak above its bound", ylabel="graphs", title=f"Gaps of {len(gaps)} planned graphs")
    return figure


def _planner(groups: Sequence[Group]) -> Any:
    """The planner's seconds against the size of the graph."""
    graphs = [graph for graph in _planned(groups) if graph["seconds"] > 0]
    if not graphs:
        return None
    figure, axes = _axes()
    axes.scatter([g["ops"] for g in graphs], [g["seconds"] for g in graphs], 16, color=_COLORS["memsched"], lw=0)
    axes.set(xscale="log", yscale="log", xlabel="ops after fusion", ylabel="planner, seconds", title="Planner time")
    return figure


def _series_parallel(groups: Sequence[Group]) -> Any:
    """The share of the ops that series-parallel collapse removes, for each graph."""
    graphs = [graph for graph in _planned(groups) if "kernel_size" in graph]
    if not graphs:
        return None
    figure, axes = _axes()
    for kind, color in (("forward", "#8a8a8a"), ("backward", _COLORS["memsched"])):
        own = [graph for graph in graphs if graph["kind"] == kind]
        shares = sorted(1 - graph["kernel_size"] / graph["ops"] for graph in own)
        whole = sum(graph["series_parallel"] for graph in own)
        if own:
            label = f"{kind}: {whole} of {len(own)} wholly series-parallel"
            axes.step([at / len(own) for at in range(len(own))], shares, color=color, label=label, where="post")
    axes.set(xlabel="share of the graphs", ylabel="share of the ops collapsed", title="How series-parallel graphs are")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _label(group: Group) -> str:
    policy = "" if group.case.policy == "block" else f", {group.case.policy}"
    return f"{group.case.model}{policy}, batch {group.case.batch}"


FIGURES = {
    "peaks": _peaks,
    "increase": _increase,
    "times": _times,
    "gaps": _gaps,
    "planner": _planner,
    "series_parallel": _series_parallel,
}
"""What draws each figure; its docstring is the caption."""

"""The ladder of a step as a table, as `memsched-fit/1`, and as a figure.

rung  setting                                   moment    peak        of first  recomputed   kernels
0     order and fusion                          loss      43.16 MiB   1.00      -            162     optimal
1     loss in 4 chunks                          backward  31.08 MiB   0.72      0.00 GFLOP   170
"""

from __future__ import annotations

from typing import Any

from memsched.core.sizes import format_bytes
from memsched.levers.ladder import Ladder, Rung
from memsched.levers.moments import Moment
from memsched.levers.setting import Setting
from memsched.render.figure import image_of, pyplot

__all__ = ["FIT_FORMAT", "draw_ladder", "fit_rows", "fit_text", "fit_to_json"]

FIT_FORMAT = "memsched-fit/1"


def fit_text(ladder: Ladder, train_step: bool, held: int | None = None) -> str:
    """The table, what is chosen, and the lines of code that give it; held: bytes beside the peaks, if known."""
    rows = fit_rows(ladder)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    beside = [] if held is None else [f"beside it parameters, optimizer state and batch: {format_bytes(held)}"]
    estimated = ["estimated: from plans of the model with few of its layers"] if _has_estimates(ladder) else []
    told = [*_verdict(ladder), *estimated, *beside, *_code(ladder.chosen.setting, train_step)]
    return "\n".join([*lines, "", *told])


def _has_estimates(ladder: Ladder) -> bool:
    return any(rung.estimated for rung in ladder.rungs)


def fit_rows(ladder: Ladder) -> list[list[str]]:
    """A header and a row per rung; the chosen one is marked."""
    first = ladder.rungs[0]
    rows = [["rung", "setting", "peaks at", "peak", "of first", "recomputed", "kernels", "bound", "status"]]
    for at, rung in enumerate(ladder.rungs):
        rows.append(
            [
                f"{at} *" if rung == ladder.chosen else f"{at}",
                str(rung.setting),
                str(rung.moment),
                format_bytes(rung.peak),
                f"{rung.peak / first.peak:.2f}" if first.peak else "",
                _price(ladder, rung),
                str(rung.kernels),
                "-" if rung.estimated else format_bytes(rung.bound),
                rung.status,
            ]
        )
    return rows


def _price(ladder: Ladder, rung: Rung) -> str:
    """What a rung costs: FLOPs again, bytes over the link."""
    again, first = ladder.recomputed(rung), ladder.rungs[0].flops
    parts = [f"{again / 1e9:.2f} GFLOP, +{again / first:.0%}"] if again and first else []
    parts += [f"{format_bytes(rung.moved)} moved"] if rung.moved else []
    return ", ".join(parts) or "-"


def _verdict(ladder: Ladder) -> list[str]:
    lowest = ladder.rungs[-1]
    binding = f"{format_bytes(lowest.peak)} at {lowest.moment}, where {lowest.blame} is alive"
    unfinished = ["interrupted: there may be rungs further down"] if ladder.interrupted else []
    if ladder.budget is None:
        return [f"as far down as the levers go: {binding}", *unfinished]
    if ladder.budget < 0:
        return ["does not fit: parameters, optimizer state and batch alone need more"]
    budget = format_bytes(ladder.budget)
    if ladder.fits:
        fits = "is estimated to fit" if ladder.chosen.estimated else "fits"
        return [f"{fits} into {budget}: {ladder.chosen.setting}"]
    return [f"does not fit into {budget}: the lowest found needs {binding}", *unfinished]


def _code(setting: Setting, train_step: bool) -> list[str]:
    options = setting.to_options()
    given = f", options={options}" if options else ""
    if train_step:
        return [f"step = memsched.train_step(model, optimizer{given})"]
    return [f'model = torch.compile(model, backend="memsched"{given})']


def fit_to_json(ladder: Ladder, train_step: bool, held: int | None = None) -> dict[str, Any]:
    """The ladder as a `memsched-fit/1` object; bytes and FLOPs."""
    return {
        "format": FIT_FORMAT,
        "step": "train_step" if train_step else "compile",
        "budget": ladder.budget,
        "held": held,
        "fits": ladder.fits,
        "interrupted": ladder.interrupted,
        "rungs": [_rung_to_json(ladder, rung) for rung in ladder.rungs],
        "chosen": ladder.rungs.index(ladder.chosen),
        "options": ladder.chosen.setting.to_options(),
        "plans": ladder.plans,
    }


def _rung_to_json(ladder: Ladder, rung: Rung) -> dict[str, Any]:
    return {
        "levers": rung.setting.to_options(),
        "setting": str(rung.setting),
        "moment": str(rung.moment),
        "graph": rung.graph,
        "peak": rung.peak,
        "stock_peak": rung.stock_peak,
        "bound": rung.bound,
        "status": rung.status,
        "kernels": rung.kernels,
        "flops": rung.flops,
        "recompute_flops": ladder.recomputed(rung),
        "moved": rung.moved,
        "estimated": rung.estimated,
        "blame": rung.blame,
    }


_COLORS = {
    Moment.FORWARD: "#66a182",
    Moment.LOSS: "#d1495b",
    Moment.BACKWARD: "#00798c",
    Moment.END: "#edae49",
    Moment.UPDATE: "#8d5b9c",
    Moment.UNKNOWN: "#888888",
}


_BOUND = "no order of its kernels needs less"


def draw_ladder(ladder: Ladder, title: str, form: str) -> bytes:
    """A bar for each rung: its peak, in the color of the moment, its bound, and what it computes again.

    Raises InputError without matplotlib.  form: one of `memsched.render.figure.FORMATS`.
    """
    plots = pyplot()
    figure, axes = plots.subplots(figsize=(8, 1.6 + 0.42 * len(ladder.rungs)), layout="constrained")
    stock = ladder.rungs[0].stock_peak
    for at, rung in enumerate(ladder.rungs):
        axes.barh(at, rung.peak / 2**20, height=0.62, color=_COLORS[rung.moment])
        if not rung.estimated:
            axes.plot([rung.bound / 2**20] * 2, [at - 0.31, at + 0.31], color="black", lw=1.2, label=_BOUND)
        again = f", {ladder.recomputed(rung) / 1e9:.2f} GFLOP again" if ladder.recomputed(rung) else ""
        chosen = ", chosen" if rung == ladder.chosen else ""
        about = "about " if rung.estimated else ""
        axes.annotate(
            f"{about}{format_bytes(rung.peak)}{again}{chosen}",
            (rung.peak / 2**20, at),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.axvline(stock / 2**20, color="black", lw=0.8, ls=":", label="stock's kernels in its order")
    if ladder.budget is not None and ladder.budget > 0:
        axes.axvline(ladder.budget / 2**20, color="#d1495b", lw=1.2, ls="--", label="budget")
    for moment in dict.fromkeys(rung.moment for rung in ladder.rungs):
        axes.barh(0, 0, color=_COLORS[moment], label=f"peaks at {moment}")
    axes.set_yticks(range(len(ladder.rungs)), [str(rung.setting) for rung in ladder.rungs], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(stock, ladder.rungs[0].peak) / 2**20)
    axes.set(xlabel="peak above what the caller holds, MiB", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once.keys(), fontsize=7, loc="lower right", frameon=False)
    return image_of(figure, form)

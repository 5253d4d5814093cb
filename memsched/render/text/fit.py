"""The ladder of a step as a table, and as `memsched-fit/1`.

rung  setting                                   moment    peak        of first  recomputed   kernels
0     order and fusion                          loss      43.16 MiB   1.00      -            162     optimal
1     loss in 4 chunks                          backward  31.08 MiB   0.72      0.00 GFLOP   170
"""

from __future__ import annotations

from typing import Any

from memsched.levers.ladder import Ladder, Rung
from memsched.levers.setting import Setting
from memsched.render.text.words import format_bytes

__all__ = ["FIT_FORMAT", "fit_rows", "fit_text", "fit_to_json"]

FIT_FORMAT = "memsched-fit/1"


def fit_text(ladder: Ladder, train_step: bool) -> str:
    """The table, what is chosen, and the lines of code that give it."""
    rows = fit_rows(ladder)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *_verdict(ladder), *_code(ladder.chosen.setting, train_step)])


def fit_rows(ladder: Ladder) -> list[list[str]]:
    """A header and a row per rung; the chosen one is marked."""
    first = ladder.rungs[0]
    rows = [["rung", "setting", "peaks at", "peak", "of first", "recomputed", "kernels", "bound", "status"]]
    for at, rung in enumerate(ladder.rungs):
        recomputed = ladder.recomputed(rung)
        rows.append(
            [
                f"{at} *" if rung == ladder.chosen else f"{at}",
                str(rung.setting),
                str(rung.moment),
                format_bytes(rung.peak),
                f"{rung.peak / first.peak:.2f}" if first.peak else "",
                f"{recomputed / 1e9:.2f} GFLOP, +{recomputed / first.flops:.0%}" if recomputed and first.flops else "-",
                str(rung.kernels),
                format_bytes(rung.bound),
                rung.status,
            ]
        )
    return rows


def _verdict(ladder: Ladder) -> list[str]:
    lowest = ladder.rungs[-1]
    binding = f"{format_bytes(lowest.peak)} at {lowest.moment}, where {lowest.blame} is alive"
    if ladder.budget is None:
        return [f"as far down as the levers go: {binding}"]
    budget = format_bytes(ladder.budget)
    if ladder.fits:
        return [f"fits into {budget}: {ladder.chosen.setting}"]
    return [f"does not fit into {budget}: the lowest found needs {binding}"]


def _code(setting: Setting, train_step: bool) -> list[str]:
    options = setting.to_options()
    given = f", options={options}" if options else ""
    if train_step:
        return [f"step = memsched.train_step(model, optimizer{given})"]
    return [f'model = torch.compile(model, backend="memsched"{given})']


def fit_to_json(ladder: Ladder, train_step: bool) -> dict[str, Any]:
    """The ladder as a `memsched-fit/1` object; bytes and FLOPs."""
    return {
        "format": FIT_FORMAT,
        "step": "train_step" if train_step else "compile",
        "budget": ladder.budget,
        "fits": ladder.fits,
        "rungs": [_rung_to_json(ladder, rung) for rung in ladder.rungs],
        "chosen": ladder.rungs.index(ladder.chosen),
        "options": ladder.chosen.setting.to_options(),
        "plans": ladder.plans,
    }


def _rung_to_json(ladder: Ladder, rung: Rung) -> dict[str, Any]:
    return {
        "levers": rung.setting.to_options(),
        "moment": str(rung.moment),
        "graph": rung.graph,
        "peak": rung.peak,
        "bound": rung.bound,
        "status": rung.status,
        "kernels": rung.kernels,
        "flops": rung.flops,
        "recompute_flops": ladder.recomputed(rung),
        "blame": rung.blame,
    }

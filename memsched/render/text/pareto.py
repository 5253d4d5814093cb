"""The trade of peak memory against kernels as a table and as a figure (PNG, SVG or PDF, by matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence

from memsched.core.sizes import format_bytes
from memsched.records.tradeoff import TradePoint, frontier
from memsched.render.figure import image_of, pyplot

__all__ = ["draw_tradeoff", "tradeoff_table"]


def tradeoff_table(points: Sequence[TradePoint]) -> list[tuple[str, ...]]:
    """A header and a row for each point; shares are of the first point, which is stock."""
    timed = any(point.seconds is not None for point in points)
    best, stock = {point.label for point in frontier(points)}, points[0]
    rows = [
        ("plan", "peak", "of stock", "kernels", "of stock", "refused", *(("step", "of stock") if timed else ()), "")
    ]
    for point in points:
        row = [point.label, format_bytes(point.peak), f"{point.peak / stock.peak:.2f}", str(point.kernels)]
        row += [f"{point.kernels / stock.kernels:.2f}", str(point.refused)]
        if timed:
            row += [f"{(point.seconds or 0) * 1000:.1f} ms", f"{(point.seconds or 0) / (stock.seconds or 1):.2f}"]
        rows.append((*row, "frontier" if point.label in best else ""))
    return rows


def draw_tradeoff(points: Sequence[TradePoint], title: str, form: str) -> bytes:
    """The figure: peak over kernels, and, when steps were measured, peak over step time; raises InputError."""
    timed = all(point.seconds is not None for point in points)
    figure, axes = pyplot().subplots(1, 1 + timed, figsize=(5.5 * (1 + timed), 4), sharey=True, layout="constrained")
    panels = list(axes) if timed else [axes]
    values = [("kernels", [float(point.kernels) for point in points])]
    if timed:
        values.append(("milliseconds of a step", [(point.seconds or 0) * 1000 for point in points]))
    best = {point.label for point in frontier(points)}
    for panel, (label, xs) in zip(panels, values, strict=True):
        told: set[tuple[float, int]] = set()
        for point, x in zip(points, xs, strict=True):
            if (x, point.peak) in told:  # the first of those that coincide has the name
                continue
            told.add((x, point.peak))
            color = "#d1495b" if point is points[0] else "#00798c"
            fill = color if point.label in best or point is points[0] else "white"
            panel.plot(x, point.peak / 2**20, "o", color=color, markerfacecolor=fill)
            panel.annotate(point.label, (x, point.peak / 2**20), xytext=(5, 4), textcoords="offset points", fontsize=7)
        panel.set(xlabel=label, title=title if panel is panels[0] else "")
        panel.axhline(min(point.lower_bound for point in points[1:] or points) / 2**20, color="black", lw=0.8, ls="--")
        panel.set_ylim(bottom=0)
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("peak, MiB of the memory model")
    return image_of(figure, form)

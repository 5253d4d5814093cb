"""Peak against work on models as people train them: `python -m bench fit [MODEL ...]`; about five minutes a model.

    python -m bench fit                  what is missing in bench/results/fit.json, the table of docs/fit.md, the figure
    python -m bench fit --ours           memsched again, beside the rows of eager and stock that are there
    python -m bench fit --table          only table and figure, from the rows that are there

For every peak that a setting of stock reaches, memsched's cheapest way to that peak or below is looked for: *work at
stock's peaks* is the most that it computes beside what stock's setting computes, over all of them.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.fit.models import FIT_MODELS
from bench.fit.ways import Point, points_of
from bench.paths import DOCS, RESULTS
from bench.report.readme import replace_block
from memsched.files.json_file import atomic_write
from memsched.inductor.failures import reason_of

__all__ = ["figure", "main", "markdown", "work_at_stocks_peaks"]

PAGE = DOCS / "fit.md"
_COLORS = {"eager": "0.55", "stock": "tab:orange", "memsched": "tab:blue"}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, write rows, table and figure; 1 when a model failed, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m bench fit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(FIT_MODELS))
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--ours", action="store_true", help="measure memsched again, beside the others that are there")
    parser.add_argument("--table", action="store_true", help="only write table and figure")
    parser.add_argument("--output", type=Path, default=RESULTS / "fit.json", metavar="FILE")
    arguments = parser.parse_args(argv)
    unknown = next((name for name in arguments.models if name not in FIT_MODELS), None)
    if unknown is not None:
        print(f"bench fit: {unknown!r} is no model (there are {', '.join(FIT_MODELS)})", file=sys.stderr)
        return 2
    if not arguments.output.parent.is_dir():
        print(f"bench fit: --output {arguments.output} is in no folder", file=sys.stderr)
        return 2
    rows, failed = read_points(arguments.output), 0
    for name in [] if arguments.table else arguments.models or FIT_MODELS:
        if arguments.again or arguments.ours or name not in rows:
            others = [point for point in rows.get(name, ()) if arguments.ours and point.way != "memsched"]
            try:
                rows[name] = list(_told(points_of(name, others)))
            except Exception as error:  # the other models are still to be had
                print(f"bench fit: {name}: {reason_of(error)}", file=sys.stderr)
                failed = 1
                continue
            text = json.dumps([asdict(point) for points in rows.values() for point in points], indent=1)
            atomic_write(arguments.output, text.encode() + b"\n")
    print(markdown(rows))
    if arguments.output == RESULTS / "fit.json":
        atomic_write(PAGE, replace_block(PAGE.read_text(), "fit", markdown(rows)).encode())
        atomic_write(DOCS / "fit.png", figure(rows))
    return failed


def read_points(file: Path) -> dict[str, list[Point]]:
    """The points of each model that were measured before."""
    rows: dict[str, list[Point]] = {}
    for row in json.loads(file.read_text()) if file.exists() else []:
        rows.setdefault(row["model"], []).append(Point(**row))
    return rows


def _told(points: Iterable[Point]) -> Iterable[Point]:
    for point in points:
        what = f"{point.model}: {point.way}, {point.setting}"
        print(
            f"{what:70} {point.measured / 2**20:8.2f} MiB {point.flops / 1e9:7.3f} GFLOP", file=sys.stderr, flush=True
        )
        yield point


def markdown(rows: Mapping[str, Sequence[Point]]) -> str:
    """A line for each model: lowest peaks, and what is computed for them."""
    lines = [
        "| model | eager MiB | stock MiB | stock's lowest | memsched, no product again | memsched's lowest | "
        "work at stock's peaks |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, points in rows.items():
        eager, stock, ours = (_of(points, way) for way in ("eager", "stock", "memsched"))
        lowest, least = min(stock, key=_peak), min(ours, key=_peak)
        first = min((point for point in ours if point.flops <= stock[0].flops * 1.001), key=_peak)
        cells = [
            _mib(eager[0]),
            _mib(stock[0]),
            f"{_mib(lowest)} ({lowest.setting}, {_work(lowest, stock[0])})",
            f"{_mib(first)} ({first.measured / stock[0].measured:.2f})",
            f"**{_mib(least)}** ({least.measured / stock[0].measured:.2f}, {_work(least, stock[0])})",
            f"{work_at_stocks_peaks(points):.2f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def work_at_stocks_peaks(points: Sequence[Point]) -> float:
    """The largest ratio of FLOPs, memsched's over stock's, over all peaks that stock's settings reach.

    At each, memsched's point is the cheapest of those that are no higher than 1% above.
    """
    ours = _of(points, "memsched")
    ratios = []
    for theirs in _of(points, "stock"):
        enough = [point.flops for point in ours if point.measured <= theirs.measured * 1.01]
        ratios.append(min(enough, default=float("inf")) / theirs.flops)  # type: ignore[operator]
    return max(ratios)


def figure(rows: Mapping[str, Sequence[Point]]) -> bytes:
    """Peak over work, a panel for each model, as PNG."""
    from matplotlib.figure import Figure

    columns = 3
    height = -(-len(rows) // columns)
    picture = Figure(figsize=(4 * columns, 2.9 * height), layout="constrained")
    panels: Any = picture.subplots(height, columns, squeeze=False)
    for panel, (name, points) in zip(panels.flat, rows.items(), strict=False):
        base = _of(points, "stock")[0]
        for way, color in _COLORS.items():
            chosen = _of(points, way)
            x = [point.flops / base.flops for point in chosen]
            y = [point.measured / 2**20 for point in chosen]
            panel.plot(x, y, "o", color=color, label=way, markersize=4, alpha=0.8)
        panel.set(title=name, xlabel="work, of stock's", ylabel="measured peak, MiB", ylim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels.flat)[len(rows) :]:
        panel.set_axis_off()
    panels.flat[0].legend(frameon=False, fontsize=8)
    image = io.BytesIO()
    picture.savefig(image, format="png", dpi=90, metadata={"Software": None})
    return image.getvalue()


def _of(points: Sequence[Point], way: str) -> list[Point]:
    return [point for point in points if point.way == way]


def _peak(point: Point) -> int:
    return point.measured


def _mib(point: Point) -> str:
    return f"{point.measured / 2**20:.2f}"


def _work(point: Point, base: Point) -> str:
    return f"+{point.flops / base.flops - 1:.0%} work" if point.flops > base.flops else "no more work"

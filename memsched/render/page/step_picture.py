"""The whole step in two drawings: bytes from the first op to the optimizer, and what they are at the highest point.

    bytes                 ▂▄█▅▂          memsched's plan of every graph, in the order in which they run
      │        ▂▄▅▆▇▇████████▅▄▂ ▇       - stock's, as a line, over the same width for the same graph
      │  ▂▄▅▆▇███████████████████▇       what the optimizer's own step needs, where that is known
      │▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓       held by the caller all the time: parameters, optimizer state, the batch
      └─ forward ──┴─ backward ──┴ update

    [parameters 40% |state 20%|saved 25% |transients 15%]       at the highest point

Inline SVG with classes only, since the page's policy allows no style attribute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from memsched.core.peak import memory_profile
from memsched.core.sizes import format_bytes
from memsched.records.explanation import StepMemory
from memsched.records.report import GraphReport
from memsched.records.step import PlannedStep

__all__ = ["step_bar", "step_curve"]

_WIDTH, _HEIGHT, _BAR = 1000, 150, 26
_LEFT, _BELOW = 84, 18
_COLUMNS = 600
_UPDATE_SHARE = 0.06


@dataclass(frozen=True, slots=True)
class _Part:
    """One graph of the step on the axis: where it begins and ends, bytes by op for each plan of it."""

    name: str
    begin: float
    end: float
    ours: Sequence[int]
    stock: Sequence[int]


def step_curve(planned: PlannedStep) -> str:
    """Bytes over the whole step, memsched's and stock's; empty where no graph has a plan or what is held is unknown."""
    parts = list(_parts(planned))
    if not parts or not planned.step_known:
        return ""
    held = planned.held.total
    update = held + planned.held.update.transients if planned.held.update else 0
    top = max(update, *(held + max((*part.ours, *part.stock)) for part in parts)) or 1

    def height(count: int) -> float:
        return round(_HEIGHT * (1 - count / (top * 1.05)), 1)

    floor = height(0)
    shapes = [f'<rect class="base" x="{_LEFT}" y="{height(held)}" width="{_WIDTH}" height="{floor - height(held)}"/>']
    for part in parts:
        ours = " ".join(f"{x},{height(held + count)}" for x, count in _columns(part, part.ours))
        ends = f"{_LEFT + part.begin},{height(held)} {ours} {_LEFT + part.end},{height(held)}"
        shapes.append(f'<polygon class="ours" points="{ends}"/>')
        if part.stock:
            stock = " ".join(f"{x},{height(held + count)}" for x, count in _columns(part, part.stock))
            shapes.append(f'<polyline class="stock" points="{stock}"/>')
        shapes.append(_label((part.begin + part.end) / 2, _HEIGHT + 13, escape(part.name)))
    if update:
        begin, y = _LEFT + parts[-1].end, height(update)
        width, tall = _WIDTH - parts[-1].end, height(held) - y
        shapes.append(f'<rect class="update" x="{begin}" y="{y}" width="{width}" height="{round(tall, 1)}"/>')
        shapes.append(_label((parts[-1].end + _WIDTH) / 2, _HEIGHT + 13, "optimizer"))
    for count in (held, top):
        shapes.append(f'<text class="end" x="{_LEFT - 6}" y="{height(count) + 4}">{escape(format_bytes(count))}</text>')
    words = f"Bytes over the step: at most {format_bytes(top)}, of which the caller holds {format_bytes(held)}."
    return _svg(words, _HEIGHT + _BELOW, shapes)


def step_bar(step: StepMemory) -> str:
    """What the bytes at the highest point are: one bar, and a legend with a size and a share for each part."""
    shapes, legend, at = [], [], float(_LEFT)
    for number, (name, size) in enumerate(step.parts):
        if not size:
            continue
        width = round(_WIDTH * size / step.total, 1)
        shapes.append(f'<rect class="share{number}" x="{round(at, 1)}" y="0" width="{width}" height="{_BAR}"/>')
        at += width
        words = f"{name} {format_bytes(size)}, {size / step.total:.0%}"
        legend.append(f'<span class="swatch share{number}"></span>{escape(words)}')
    words = f"At the highest point: {format_bytes(step.total)}."
    return _svg(words, _BAR, shapes) + f'<p class="legend">{" ".join(legend)}</p>'


def _parts(planned: PlannedStep) -> Iterator[_Part]:
    """The graphs that have a plan, in the order in which they ran; each as wide as it has ops."""
    stock = {report.name: report for report in planned.stock}
    reports = [report for report in planned.reports if report.graph is not None and report.schedule is not None]
    width = _WIDTH * (1 - _UPDATE_SHARE if planned.held.update else 1)
    ops = sum(report.ops for report in reports) or 1
    begin = 0.0
    for report in reports:
        end = round(begin + width * report.ops / ops, 1)
        yield _Part(report.name, begin, end, _levels(report), _levels(stock.get(report.name)))
        begin = end


def _levels(report: GraphReport | None) -> Sequence[int]:
    if report is None or report.graph is None or report.schedule is None:
        return ()
    return memory_profile(report.graph, report.schedule.order).step_peaks


def _columns(part: _Part, levels: Sequence[int]) -> Iterator[tuple[float, int]]:
    """Places on the axis with the most bytes of the ops that fall there."""
    width = part.end - part.begin
    columns = max(1, min(len(levels), int(_COLUMNS * width / _WIDTH) or 1))
    for column in range(columns):
        first = len(levels) * column // columns
        last = max(first + 1, len(levels) * (column + 1) // columns)
        most = max(levels[first:last])
        for place in (column, column + 1):
            yield round(_LEFT + part.begin + width * place / columns, 1), most


def _label(x: float, y: float, text: str) -> str:
    return f'<text class="middle" x="{round(_LEFT + x, 1)}" y="{y}">{text}</text>'


def _svg(words: str, height: int, shapes: Sequence[str]) -> str:
    size = f'viewBox="0 0 {_LEFT + _WIDTH} {height}"'
    return f'<svg class="picture" {size} role="img" aria-label="{escape(words)}">{"".join(shapes)}</svg>'

"""Two runs in one page: every graph with its plan before and its plan now, over each other.

before ──┐   forward 0    before, now
         ├─> backward 0   before, now      a graph that only one side has is drawn alone
now    ──┘
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from memsched.render.exhibit import Exhibit
from memsched.render.page.html import render_html
from memsched.render.planned_file import PlannedFile
from memsched.render.timeline import Timeline, timeline_of

__all__ = ["render_difference_page"]


def render_difference_page(before: Sequence[PlannedFile], now: Sequence[PlannedFile], title: str, words: str) -> str:
    """The page; words: what changed, as text.  There is a plan on either side."""
    old = {planned.graph.name: planned for planned in before}
    new = {planned.graph.name: planned for planned in now}
    exhibits = [_exhibit(old.get(name), new.get(name)) for name in dict.fromkeys([*new, *old])]
    return render_html(exhibits, title, f"<pre>{escape(words)}</pre>")


def _exhibit(before: PlannedFile | None, now: PlannedFile | None) -> Exhibit:
    """The bound is that of the plan now."""
    timelines = [_timeline(planned, side) for planned, side in ((before, "before"), (now, "now")) if planned]
    shown = now or before
    assert shown is not None
    certificate = shown.schedule.certificate
    bound = None if certificate is None else shown.schedule.lower_bound
    return Exhibit(timelines, bound, certificate, shown.proved, shown.refusals)


def _timeline(planned: PlannedFile, title: str) -> Timeline:
    return timeline_of(planned.graph, planned.schedule.order, title, planned.origins)

"""What the HTML report is made of besides its data: files in `assets/`, which are read when a page is written.

    frame.html   the elements of the page, with {names} for what `memsched.render.page.html` fills in
    style.css    light and dark by the reader's preference; the canvas takes its colors from here too
    state.js     what is shown, numbers in words, elements
    chart.js     the chart of one order on a canvas
    places.js    buffers by source line, module or role: colors, sums, what is highlighted
    tables.js    what moves the view, and the tables

The four scripts are one script of the page, in this order.  The page works without a connection, and its policy lets
no other script run; see `memsched.render.page.html`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["frame", "script", "style"]


def frame() -> str:
    """The page as a format string."""
    return _asset("frame.html")


def style() -> str:
    """The style sheet."""
    return _asset("style.css")


def script() -> str:
    """All of the script."""
    return "\n".join(map(_asset, ("state.js", "chart.js", "places.js", "tables.js")))


@cache
def _asset(name: str) -> str:
    return (files("memsched.render.page") / "assets" / name).read_text(encoding="utf-8")

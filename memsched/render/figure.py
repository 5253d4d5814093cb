"""Figures as files, by matplotlib: PNG, SVG or PDF; the same data, the same bytes."""

from __future__ import annotations

import io
import os
from typing import Any

from memsched.core.sizes import InputError

__all__ = ["FORMATS", "checked_figure", "image_of", "pyplot"]

FORMATS = ("png", "svg", "pdf")


def checked_figure(path: str) -> str:
    """The format that the name of a file asks for, if the figure can be drawn and written there.

    To be asked before the work whose figure it is.  Raises InputError.
    """
    form = _format_of(path)
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise InputError(f"{path}: its folder does not exist")
    pyplot()
    return form


def _format_of(path: str) -> str:
    form = os.path.splitext(path)[1].removeprefix(".").lower()
    if form not in FORMATS:
        raise InputError(f"{path}: the figure is written as {', '.join('.' + known for known in FORMATS)}")
    return form


def pyplot() -> Any:
    """matplotlib's, without a screen; raises InputError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("a figure needs matplotlib: pip install memsched[viz]") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def image_of(figure: Any, form: str) -> bytes:
    """`figure` as a file of the format; it is closed."""
    import matplotlib

    image = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "memsched"}):  # the same points, the same file
        figure.savefig(image, format=form, dpi=110, metadata={"Date": None} if form == "svg" else None)
    pyplot().close(figure)
    return image.getvalue()

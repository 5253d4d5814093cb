"""A plan in the format that the name of the output asks for.

.html     memory over time, the order, the proof, in one page                       memsched.render.page.html
.pickle   a snapshot for PyTorch's memory_viz                                       memsched.render.snapshot
.json     a trace for ui.perfetto.dev                                               memsched.render.perfetto
.csv      one row for each step                                                     memsched.render.text.table
"""

from __future__ import annotations

import os
from collections.abc import Callable

from memsched.files.fields import FormatError
from memsched.files.json_file import atomic_write
from memsched.render.exhibit import Exhibit
from memsched.render.page.html import render_html
from memsched.render.perfetto import render_perfetto
from memsched.render.snapshot import render_snapshot
from memsched.render.text.table import render_csv

__all__ = ["FORMATS", "check_output", "write_exhibit"]


def check_output(path: str) -> None:
    """Raise FormatError unless the name of `path` ends in one of `FORMATS`."""
    if _suffix(path) not in FORMATS:
        raise FormatError(f"{path}: the name must end in one of {', '.join(FORMATS)}")


def write_exhibit(path: str, exhibit: Exhibit) -> None:
    """Write the file, whole or not at all; raises FormatError as `check_output` does, and OSError."""
    check_output(path)
    atomic_write(path, FORMATS[_suffix(path)](exhibit))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _html(exhibit: Exhibit) -> bytes:
    return render_html([exhibit]).encode("utf-8")


def _snapshot(exhibit: Exhibit) -> bytes:
    return render_snapshot(exhibit.timelines[-1])


def _perfetto(exhibit: Exhibit) -> bytes:
    return render_perfetto(exhibit.timelines).encode("utf-8")


def _csv(exhibit: Exhibit) -> bytes:
    return render_csv(exhibit.timelines[-1]).encode("utf-8", "backslashreplace")


FORMATS: dict[str, Callable[[Exhibit], bytes]] = {
    ".html": _html,
    ".pickle": _snapshot,
    ".json": _perfetto,
    ".csv": _csv,
}
"""What writes each kind of file, by the end of its name."""

"""A plan in the format that the name of the output asks for.

.html     memory over time, the order, the proof, in one page                       memsched.report.html
.pickle   a snapshot for PyTorch's memory_viz                                       memsched.report.snapshot
.json     a trace for ui.perfetto.dev                                               memsched.report.perfetto
.csv      one row for each step                                                     memsched.report.table
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memsched.core.graphio import FormatError, atomic_write
from memsched.core.origin import RefusedFusion
from memsched.core.result import Certificate
from memsched.report.html import render_html
from memsched.report.perfetto import render_perfetto
from memsched.report.snapshot import render_snapshot
from memsched.report.table import render_csv
from memsched.report.timeline import Timeline

__all__ = ["FORMATS", "Exhibit", "check_output", "write_exhibit"]


@dataclass(frozen=True)
class Exhibit:
    """What there is to show: one or two orders of the same graph, the chosen one last, and what is proved.

    lower_bound in bytes, None when nothing is known; proved: whether the certificate could be followed.
    """

    timelines: Sequence[Timeline]
    lower_bound: int | None = None
    certificate: Certificate | None = None
    proved: bool = False
    refusals: Sequence[RefusedFusion] = ()


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
    shown = exhibit
    page = render_html(shown.timelines, shown.lower_bound, shown.certificate, shown.proved, shown.refusals)
    return page.encode("utf-8")


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

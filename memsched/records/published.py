"""The reports and the counters of this process: what `memsched.reports()` returns.

    import torch, memsched
    torch.compile(model, backend="memsched")(x).sum().backward()
    for report in memsched.reports():
        print(report)

Only graphs that code was generated for are here, and those that a generated module brought out of a cache.  A plan
that somebody asked for (`explain`, `plan`, `check`) goes to who asked.

A generated module carries its report, and tells it when it is loaded (`restore_report`).  In the process that compiles
the module, that report is here already; so within `signing()` such a text is expected once, and not taken twice:

    with signing():
        expect_signature(text)        written into the module that is being generated
        ...                           Inductor loads the module: restore_report(text) does nothing
    ...                               loaded later, out of a cache: restore_report(text) adds the report
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import fields

from memsched.core.result import Status
from memsched.records.report import GraphKind, GraphReport, SeriesParallel

__all__ = [
    "MOST_REPORTS",
    "add_report",
    "count",
    "counters",
    "expect_signature",
    "reports",
    "reset",
    "restore_report",
    "signing",
]

log = logging.getLogger("memsched")

MOST_REPORTS = 1000
"""How many reports are kept; of more, the newest."""

counters: dict[str, int] = {}
"""How often each kind of fallback happened in this process, by its cause."""

_reports: deque[GraphReport] = deque(maxlen=MOST_REPORTS)


class _Expected(threading.local):
    """The texts that modules being generated in this thread will tell when they are loaded."""

    def __init__(self) -> None:
        self.texts: list[str] = []


_expected = _Expected()


def count(cause: str) -> None:
    """One more fallback by this cause."""
    counters[cause] = counters.get(cause, 0) + 1


def add_report(report: GraphReport) -> None:
    """Append to what `reports` returns."""
    _reports.append(report)


def reports() -> list[GraphReport]:
    """One report per compiled graph since the start or the last `reset`, newest last; at most `MOST_REPORTS`."""
    return list(_reports)


def reset() -> None:
    """Forget all reports and counters."""
    _reports.clear()
    counters.clear()


@contextlib.contextmanager
def signing() -> Iterator[None]:
    """While a graph is compiled: what was expected in it and did not come is forgotten at its end."""
    before = list(_expected.texts)
    try:
        yield
    finally:
        _expected.texts = before


def expect_signature(text: str) -> None:
    """Expect `restore_report(text)` from the module that is being generated, and whose report is known."""
    _expected.texts.append(text)


def restore_report(text: str) -> None:
    """What a generated module calls when it is loaded; adds its report, unless the module was generated just now.

    A graph that was left to stock when it was compiled is stock's wherever it is loaded: that is told again.

    text: `GraphReport.to_json` as JSON, without what a cache does not keep.
    """
    if text in _expected.texts:
        _expected.texts.remove(text)
        return
    told = json.loads(text)
    known = {field.name for field in fields(GraphReport)} - {"refusals", "cached", "kind", "status", "series_parallel"}
    figures = {key: value for key, value in told.items() if key in known}
    kind, status = GraphKind(told["kind"]), Status(told["status"])
    shape = told.get("series_parallel")
    found = SeriesParallel(shape["depth"], tuple(shape["witness"])) if shape else None
    report = GraphReport(**figures, kind=kind, status=status, series_parallel=found, cached=True)
    add_report(report)
    if report.fallback:
        count("loading what was left to stock")
        log.warning("memsched: %s comes from a cache, left to stock Inductor (%s)", report.name, report.fallback)

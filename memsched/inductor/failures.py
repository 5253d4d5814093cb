"""What every failure inside the compiler has in common: it is counted and told once, and stock goes on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from torch._dynamo.exc import RestartAnalysis
from torch._dynamo.utils import counters as torch_counters

from memsched.records.published import count

__all__ = ["RESTARTS", "leave_to_stock", "reason_of", "stock_goes_on"]

log = logging.getLogger("memsched")

RESTARTS = (RestartAnalysis,)
"""What is raised out of a compile and is no failure: Dynamo traces the frame once more, and compiles it again."""


def leave_to_stock(what: str, doing: str, reason: str) -> None:
    """Tell that stock Inductor does `what`, since `doing` something for it failed."""
    count(doing)
    torch_counters["memsched"][doing] += 1
    log.warning("memsched: %s is left to stock Inductor (%s)", what, reason)


@contextlib.contextmanager
def stock_goes_on(what: str, doing: str, *, strict: bool) -> Iterator[None]:
    """A context that a failure ends early: what it would have set stays as it was, which is stock's.

    strict: the failure is raised instead.
    """
    try:
        yield
    except RESTARTS:
        raise
    except Exception as error:
        if strict:
            raise
        leave_to_stock(what, doing, reason_of(error))


def reason_of(error: BaseException) -> str:
    """The error in one line: its type and the first line of its message, if it has one; at most 300 characters."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0]}"[:300] if message else type(error).__name__

"""What every failure inside the compiler has in common: it is counted and told once, and stock goes on."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

from torch._dynamo.exc import RestartAnalysis
from torch._dynamo.utils import counters as torch_counters

from memsched.inductor.compat import LOG_CALLS_DROPPED
from memsched.records.published import count

__all__ = ["RESTARTS", "break_of", "leave_to_stock", "reason_of", "stock_goes_on"]

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


def break_of(error: BaseException) -> str:
    """Why Dynamo ended the graph, and at which line of the code that it traced; in one line.

    A message to a logger comes with what makes Dynamo trace past it.
    """
    stack = getattr(error, "real_stack", None)
    where = f" at {stack[-1].filename}:{stack[-1].lineno} in {stack[-1].name}" if stack else ""
    message = re.search(r"context: method: <Logger .*>\.(\w+),", str(error))
    setting = f"torch._dynamo.config.{LOG_CALLS_DROPPED}.add(logging.Logger.{message[1]})" if message else ""
    return (_first_line(error)[:300] or type(error).__name__) + where + (setting and f"; {setting} traces past it")


def reason_of(error: BaseException) -> str:
    """The error in one line: its type and the first line of its message, if it has one; at most 300 characters."""
    line = _first_line(error)
    return f"{type(error).__name__}: {line}"[:300] if line else type(error).__name__


def _first_line(error: BaseException) -> str:
    """Of its message; nothing where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""

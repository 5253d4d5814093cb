"""What every failure inside the compiler has in common: it is counted and told once, and stock goes on."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sysconfig
from collections.abc import Iterator

import torch
from torch._dynamo.exc import RestartAnalysis
from torch._dynamo.utils import counters as torch_counters

from memsched.inductor.compat import LOG_CALLS_DROPPED
from memsched.records.published import count

__all__ = [
    "RESTARTS",
    "TORCH",
    "break_of",
    "leave_to_stock",
    "logging_setting",
    "past_messages",
    "reason_of",
    "stock_goes_on",
]

log = logging.getLogger("memsched")

_LIBRARY = os.path.join(sysconfig.get_paths()["stdlib"], "")
TORCH = os.path.join(os.path.dirname(torch.__file__), "")
"""The folder of PyTorch's own files."""

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
    """Why Dynamo ended the graph, and at which line of the code that it traced; in one line."""
    return (_first_line(error)[:300] or type(error).__name__) + _place_of(error)


def logging_setting(error: BaseException) -> str:
    """Where a message to a logger ended the graph, the line of code that makes Dynamo trace past such; else ""."""
    message = re.search(r"context: method: <Logger .*>\.(\w+),", str(error))
    return f"torch._dynamo.config.{LOG_CALLS_DROPPED}.add(logging.Logger.{message[1]})" if message else ""


def past_messages(error: BaseException) -> str:
    """What a plan takes for granted that was made past the message to a logger that ended the graph; in one line."""
    return f"planned past a message to a logger{_place_of(error)}: {logging_setting(error)} makes a compile do the same"


def _place_of(error: BaseException) -> str:
    """The line of the code that Dynamo traced: of the innermost function that is neither Python's nor PyTorch's."""
    stack = getattr(error, "real_stack", None) or []
    frames = [frame for frame in stack if not _is_of_library(frame.filename)] or stack
    return f" at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


def _is_of_library(file: str) -> bool:
    """Whether a file is PyTorch's, or of Python's own library, where packages may be installed, too."""
    in_library = file.startswith(_LIBRARY) and "-packages" not in file.removeprefix(_LIBRARY)
    return in_library or file.startswith(TORCH)


def reason_of(error: BaseException) -> str:
    """The error in one line: its type and the first line of its message, if it has one; at most 300 characters."""
    line = _first_line(error)
    return f"{type(error).__name__}: {line}"[:300] if line else type(error).__name__


def _first_line(error: BaseException) -> str:
    """Of its message; nothing where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""

"""What every failure inside the compiler has in common: it is counted and told once, and stock goes on."""

from __future__ import annotations

import logging

from torch._dynamo.utils import counters as torch_counters

from memsched.records.published import count

__all__ = ["leave_to_stock", "reason_of"]

log = logging.getLogger("memsched")


def leave_to_stock(what: str, doing: str, reason: str) -> None:
    """Tell that stock Inductor does `what`, since `doing` something for it failed."""
    count(doing)
    torch_counters["memsched"][doing] += 1
    log.warning("memsched: %s is left to stock Inductor (%s)", what, reason)


def reason_of(error: BaseException) -> str:
    """The error in one line: its type and the first line of its message, if it has one; at most 300 characters."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0]}"[:300] if message else type(error).__name__

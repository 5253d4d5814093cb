"""Whether a child process has had its CPU time, or stands still.

    CPU seconds of the child and of all that it started
      │            ╭───────   taking time: over when it has had what it is allowed
      │        ╭───╯
      │  ──────╯ <- standing still (stopped, swapped out, waiting for a lock): over after a few seconds of the clock

Wall time alone would end a search earlier on a busy machine, and another plan would come out; CPU time alone would
wait for ever for a child that was stopped.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from memsched.search.models.model import ModelError

__all__ = ["ChildWatch"]

_SECONDS_STANDING_STILL = 3.0
"""Of the clock, without any CPU time, which is counted in hundredths of a second."""


class ChildWatch:
    """The CPU time of the process `pid` and of its descendants, from now on.

    Raises ModelError where psutil is missing.
    """

    def __init__(self, pid: int) -> None:
        try:
            import psutil
        except ImportError:
            raise ModelError("psutil is missing; pip install 'memsched[solver]'") from None
        self._missing: type[Exception] = psutil.Error
        self._process: Any = None
        with contextlib.suppress(psutil.Error):  # it has died already, which its pipe will say
            self._process = psutil.Process(pid)
        self._taken = 0.0
        self._moved_at = time.monotonic()
        self._limit = float("inf")

    def allow(self, seconds: float) -> None:
        """Let it take `seconds` more of CPU time, from what it has taken now."""
        self._look()
        self._limit = self._taken + seconds

    def over(self) -> bool:
        """Whether it has had its time, or stands still."""
        self._look()
        return self._taken > self._limit or time.monotonic() - self._moved_at > _SECONDS_STANDING_STILL

    def _look(self) -> None:
        taken = 0.0
        with contextlib.suppress(self._missing, AttributeError):
            for process in (self._process, *self._process.children(recursive=True)):
                with contextlib.suppress(self._missing):  # a grandchild may end meanwhile
                    times = process.cpu_times()
                    taken += times.user + times.system + times.children_user + times.children_system
        if taken > self._taken:
            self._taken, self._moved_at = taken, time.monotonic()

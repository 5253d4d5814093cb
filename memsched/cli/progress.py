"""What a long command is doing, on standard error.

On a terminal one line, from the first second, written over.  Elsewhere, in a log, a line for each message, once the
command has taken `PATIENCE` seconds: what ends before, with an answer or with the one line of an error, needs none.
Each begins with the seconds so far.  What the user's code prints meanwhile goes to standard error, too: standard output
is the answer's.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time

__all__ = ["PATIENCE", "Progress"]

PATIENCE = 10.0


class Progress:
    """Call it with what is being done now; a context manager."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._about = ""
        self._terminal = sys.stderr.isatty()
        self._pending: list[str] | None = [] if not self._terminal else None
        self._timer = threading.Timer(PATIENCE, self._tell_pending)
        self._timer.daemon = True
        self._aside = contextlib.redirect_stdout(sys.stderr)

    def about(self, text: str) -> None:
        """What the next messages are about."""
        self._about = f"{text}: " if text else ""

    def __call__(self, text: str) -> None:
        line = f"[{time.perf_counter() - self._started:4.0f} s] {self._about}{text}"
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{line}"[:120])
            sys.stderr.flush()
        elif self._pending is not None:
            self._pending.append(line)
        else:
            _tell(line)

    def _tell_pending(self) -> None:
        pending, self._pending = self._pending, None
        for line in pending or ():
            _tell(line)

    def line(self, text: str) -> None:
        """A line that stays."""
        self.done()
        print(text, file=sys.stderr, flush=True)

    def done(self) -> None:
        """Nothing is being done any more."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __enter__(self) -> Progress:
        if not self._terminal:
            self._timer.start()
        self._aside.__enter__()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._aside.__exit__(None, None, None)
        self._timer.cancel()
        self.done()


def _tell(line: str) -> None:
    print(f"memsched: {line}", file=sys.stderr, flush=True)

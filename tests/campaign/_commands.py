"""A command of memsched in this process: what it printed, and how it ended.  `forged` and `bad_files` use it."""

from __future__ import annotations

import contextlib
import io
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from memsched.cli import main
from memsched.cli.command import EXIT_BAD_INPUT, EXIT_CLAIMED, EXIT_DONE, EXIT_NOT_VERIFIED, EXIT_ROSE

ANSWERS = (EXIT_DONE, EXIT_ROSE, EXIT_BAD_INPUT, EXIT_NOT_VERIFIED, EXIT_CLAIMED)
_SECONDS = 60


@dataclass(frozen=True)
class Ended:
    """Exit code, both streams, and what was raised; `code` is -1 when something was."""

    code: int
    out: str
    err: str
    raised: str = ""

    @property
    def fault(self) -> str:
        """What no user may see of any input: a traceback, an unknown code, a refusal of more or less than one line."""
        if self.raised:
            return self.raised
        if self.code not in ANSWERS:
            return f"exit code {self.code}"
        if self.code in (EXIT_BAD_INPUT, EXIT_NOT_VERIFIED) and self.err.count("\n") != 1:
            return f"{self.err.count(chr(10))} lines"
        return ""


def run_command(arguments: Sequence[str]) -> Ended:
    """`memsched ARGUMENTS`, for at most a minute."""
    out, err = io.StringIO(), io.StringIO()
    code, raised = -1, ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _within(_SECONDS):
            code = main(list(arguments))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else -1
        raised = "" if isinstance(error.code, int) else "SystemExit"
    except BaseException as error:  # also what derives from no Exception: this is what is looked for
        raised = type(error).__name__
    return Ended(code, out.getvalue(), err.getvalue(), raised)


class _Hangs(BaseException):
    """The command has not ended in time."""


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

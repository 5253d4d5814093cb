"""Which parameters a step had updated when it failed.

Inductor's code is one Python function; after the last use of an input it says `del` of it, and the last use of a
parameter (and of its state) is its update.  So when a kernel raises, the frame of that function tells exactly:

    cpp_fused_12(buf7, primals_3, arg_momentum_buffer_30)       ran
    del primals_3                                               gone from the frame: updated
    extern_kernels.mm(buf9, primals_5, out=buf2)  <── raised    primals_5 is still there: not updated
    cpp_fused_13(buf2, primals_5)

What the failing line uses for the last time, and an update of which only a part is done, is in doubt.  On a GPU errors
of kernels arrive late and end the process's context; what this tells there is about allocation failures.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType

from memsched.inductor.failures import reason_of

__all__ = ["StepInterrupted", "progress_of", "raise_interrupted"]

_NAMES = re.compile(r"\w+")


class StepInterrupted(RuntimeError):
    """A step that failed after some of its updates; the cause is chained.

    updated: what had been written completely, by the names of `named_parameters` and `named_buffers`.
    in_doubt: what was being written: one of its tensors (parameter, state) may be new and another old.
    """

    def __init__(self, message: str, updated: Sequence[str], in_doubt: Sequence[str]) -> None:
        super().__init__(message)
        self.updated, self.in_doubt = tuple(updated), tuple(in_doubt)


def progress_of(error: BaseException, written: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]] | None:
    """What had been written and what is in doubt, when `error` was raised inside Inductor's code; None if unknown.

    written: by what the user calls it, the inputs of the code that its update writes.
    """
    found = _code_frame(error.__traceback__, {name for names in written.values() for name in names})
    if found is None:
        return None
    frame, line = found
    alive = frame.f_locals
    if alive.get("args"):
        return [], []
    at_work = _last_used(frame.f_code.co_filename, line)
    updated, in_doubt = [], []
    for label, names in written.items():
        left = [name for name in names if name in alive]
        if not left:
            updated.append(label)
        elif len(left) < len(names) or at_work.intersection(left):
            in_doubt.append(label)
    return updated, in_doubt


def _last_used(file: str, line: int) -> set[str]:
    """The names that this line of the code uses for the last time: the `del`s that follow it at once tell."""
    lines = linecache.getlines(file)
    names = set(_NAMES.findall(lines[line - 1])) if line <= len(lines) else set()
    gone: set[str] = set()
    for text in lines[line:]:
        if not text.strip().startswith("del "):
            break
        gone.update(_NAMES.findall(text))
    return names & gone


def raise_interrupted(error: BaseException, written: Mapping[str, Sequence[str]]) -> None:
    """Raise what tells that a step failed in the middle; return when nothing had been written.

    What is not an `Exception` (Ctrl-C) gets a note and stays what it is.
    """
    progress = progress_of(error, written) if written else ([], [])
    if progress == ([], []):
        error.add_note("memsched.train_step: nothing was updated; parameters and state are as before the step")
        return
    what = f"the step failed in the middle ({reason_of(error)})"
    updated, in_doubt = progress or ([], list(written))
    if progress is None:
        message = f"{what}, it is not known where: load parameters and optimizer state from a checkpoint"
    else:
        message = f"{what}: {len(updated)} of {len(written)} were updated ({_list(updated)}), the others were not"
        message += f", in doubt: {_list(in_doubt)}" if in_doubt else ""
    if not isinstance(error, Exception):
        error.add_note(f"memsched.train_step: {message}")
        return
    raise StepInterrupted(message, updated, in_doubt) from error


def _list(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:4])
    return f"{shown}, ..." if len(labels) > 4 else shown


def _code_frame(traceback: TracebackType | None, names: set[str]) -> tuple[FrameType, int] | None:
    """The frame of Inductor's code: the one whose locals are named like the inputs."""
    while traceback is not None:
        if names & set(traceback.tb_frame.f_code.co_varnames):
            return traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
    return None

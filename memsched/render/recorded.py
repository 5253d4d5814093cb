"""What PyTorch's own recorder measured, to be drawn over a plan: a snapshot of `torch.cuda.memory`.

    torch.cuda.memory._record_memory_history()
    step(batch)
    torch.cuda.memory._dump_snapshot("snapshot.pickle")

A snapshot lists allocations and frees, and the blocks that are left.  Going back from these gives the level before each
event.  It does not say which op ran: the events are spread evenly over the steps, and the curve begins at the level of
the plan, so that heights can be compared and places only roughly.

A pickle can run code when it is loaded.  This reader builds plain containers, texts and numbers, and refuses the rest.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any, NoReturn

from memsched.files.fields import FormatError
from memsched.records.step import MeasuredCurve

__all__ = ["read_recorded"]

_CHANGE = {"alloc": 1, "free_completed": -1}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it holds {module}.{name}, and only plain types are read")


def read_recorded(path: str, start: int, steps: int) -> MeasuredCurve:
    """The curve of the device with most events, above `start` bytes, spread over `steps` steps of a plan.

    Raises:
        FormatError: not such a snapshot, or one without events.
    """
    try:
        with open(path, "rb") as file:
            snapshot = _PlainUnpickler(io.BytesIO(file.read())).load()
        traces = [list(_changes(trace)) for trace in snapshot["device_traces"]]
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a pickle that is not one can fail in any way
        text = " ".join(str(error).split())[:200]
        raise FormatError(f"{path}: not a snapshot of torch.cuda.memory ({type(error).__name__}: {text})") from None
    changes = max(traces, key=len, default=[])
    if not changes:
        raise FormatError(f"{path}: device_traces: no allocation was recorded")
    levels = [start]
    for change in changes:
        levels.append(levels[-1] + change)
    places = tuple(steps * at / len(changes) for at in range(len(levels)))
    return MeasuredCurve(places, tuple(levels), f"{len(changes):,} recorded events, spread evenly over the steps")


def _changes(trace: list[dict[str, Any]]) -> Iterator[int]:
    for event in trace:
        sign = _CHANGE.get(event["action"])
        if sign is not None:
            yield sign * int(event["size"])

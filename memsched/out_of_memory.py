"""What to do when a step does not fit: an explanation at the moment when the device has run out of memory.

    with memsched.explain_oom(model, batch, optimizer=optimizer):
        loss = model(batch)
        loss.backward()
        optimizer.step()

The step is planned on fake tensors, so that nothing is allocated on the device that is full.  The error goes on to the
caller; where the step cannot be explained, one line says why, and the error is the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from memsched.questions import explain

__all__ = ["explain_oom", "is_out_of_memory"]


@contextmanager
def explain_oom(model: Any, *args: Any, file: TextIO | None = None, **question: Any) -> Iterator[None]:
    """Explain the step of `model` with the batch `args` when the block runs out of memory; the error is raised again.

    file: where the explanation goes; standard error by default.  question: as for `memsched.explain`; the device is
    that of the parameters, and experiments are left out, where neither is given.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            _tell(model, args, {"device": _device_of(model), "experiments": False} | question, file or sys.stderr)
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, or Python, says that memory is used up, on any device."""
    import torch

    words = "can't allocate memory", "out of memory"
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _tell(model: Any, args: tuple[Any, ...], question: dict[str, Any], file: TextIO) -> None:
    """Print the explanation; whatever fails here must not hide what happened."""
    print("memsched: out of memory; planning the step ...", file=file, flush=True)
    try:
        found = explain(model, *args, **question)
    except Exception as error:
        print(f"memsched: the step cannot be explained: {' '.join(str(error).split())[:300]}", file=file)
        return
    print(found.answer or found, file=file)


def _device_of(model: Any) -> str:
    """The kind of device of the first parameter; "cpu" for a model without one."""
    parameters = getattr(model, "parameters", lambda: iter(()))()
    first = next(iter(parameters), None)
    return "cpu" if first is None else str(first.device.type)

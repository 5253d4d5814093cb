"""memsched: less peak memory for compiled PyTorch graphs, and a proof of how close to the least it is.

    torch.compile(model, backend="memsched")        # no import needed
    torch.compile(model, options=memsched.options())  # the same for those who must keep backend="inductor"
    memsched.train_step(model, optimizer)           # forward, backward and update as one plan
    memsched.reports()                              # what was planned, one report per compiled graph
    memsched.fit(model, batch, budget="0.5x")       # how far down a step can go, and at what price
    memsched.explain(model, batch)                  # why a step peaks where it does, before it runs
    memsched.summary(model, batch)                  # the same on one screen, in seconds
    with memsched.explain_oom(model, batch): ...    # the same when the device has run out of memory
    memsched.log_peaks(trainer)                     # planned peaks in the logs of Hugging Face's or Lightning's Trainer

Importing this package imports neither torch nor a solver.
"""

from __future__ import annotations

from typing import Any

from memsched.records.published import reports, reset
from memsched.records.report import GraphReport

__all__ = [
    "GraphReport",
    "explain",
    "explain_oom",
    "fit",
    "install",
    "log_peaks",
    "memsched_backend",
    "options",
    "reports",
    "reset",
    "summary",
    "train_step",
    "uninstall",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "memsched_backend":
        from memsched.inductor.backend import memsched_backend

        return memsched_backend
    if name in ("explain", "summary"):
        from memsched import questions

        return getattr(questions, name)
    if name == "explain_oom":
        from memsched.out_of_memory import explain_oom

        return explain_oom
    if name == "log_peaks":
        from memsched.callbacks import log_peaks

        return log_peaks
    if name in ("install", "options", "uninstall"):
        from memsched.inductor import plain

        return getattr(plain, name)
    if name == "fit":
        from memsched.fitting import fit

        return fit
    if name == "train_step":
        from memsched.inductor.train_step.step import train_step

        return train_step
    raise AttributeError(f"module 'memsched' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names that are imported when they are asked for are there, too."""
    return sorted({*globals(), *__all__})

"""memsched: less peak memory for compiled PyTorch graphs, and a proof of how close to the least it is.

    torch.compile(model, backend="memsched")        # no import needed
    torch.compile(model, options=memsched.options())  # the same for those who must keep backend="inductor"
    memsched.train_step(model, optimizer)           # forward, backward and update as one plan
    memsched.reports()                              # what was planned, one report per compiled graph
    memsched.fit(model, batch, budget="0.5x")       # how far down a step can go, and at what price
    memsched.explain(model, batch)                  # why a step peaks where it does, before it runs

Importing this package imports neither torch nor a solver.
"""

from __future__ import annotations

from typing import Any

from memsched.records.published import reports, reset
from memsched.records.report import GraphReport

__all__ = [
    "GraphReport",
    "explain",
    "fit",
    "install",
    "memsched_backend",
    "options",
    "reports",
    "reset",
    "train_step",
    "uninstall",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "memsched_backend":
        from memsched.inductor.backend import memsched_backend

        return memsched_backend
    if name == "explain":
        from memsched.questions import explain

        return explain
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

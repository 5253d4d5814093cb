"""Ending the compile of one graph early, when all that was wanted of it is there.

    compile_fx_inner ──> passes over the graph ──> lowering ──> fusion ──> our order │ code generation
                                                                         stop here ──┘

`StopAfter` raises behind a pass over the scheduler's nodes; `stopped` is the context that ends there.
"""

from __future__ import annotations

import contextlib
from typing import Any, NoReturn

from torch._guards import TracingContext
from torch._inductor.virtualized import V

from memsched.inductor.compat import SchedulerPass
from memsched.inductor.storages.saved_copies import strides_of

__all__ = ["StopAfter", "StopCompile", "stop_compile", "stopped"]


class StopCompile(BaseException):
    """Raised by `stop_compile`; no error, so nothing on the way wraps it, tells of it, or leaves the graph to stock."""


def stop_compile() -> NoReturn:
    """End the compile of a graph that has been lowered, when all that is wanted of it is done.

    One thing feeds back from a compiled forward into its backward: the strides of what it saves, which Inductor
    chooses (channels last) and autograd's compiler tells the backward's compiler; so the stop reports them.
    """
    context = TracingContext.try_get()
    if context is not None and context.output_strides is not None:
        context.output_strides[:] = [strides_of(output) for output in V.graph.graph_outputs]
    raise StopCompile


class StopAfter(SchedulerPass):  # type: ignore[misc]
    """Runs another pass, then stops the compile."""

    def __init__(self, inner: SchedulerPass) -> None:
        self.inner = inner

    def __call__(self, nodes: list[Any]) -> list[Any]:
        self.inner(nodes)
        stop_compile()

    def uuid(self) -> str:
        return f"{self.inner.uuid()} and stop"


def stopped() -> contextlib.suppress:
    """Within the context `StopCompile` ends the compile."""
    return contextlib.suppress(StopCompile)

"""A model that shall be one graph: what breaks it is named, with its line, and a message to a logger is planned past.

    plan ──> one graph
         ──> several ──> traced once more, as one ──> Dynamo says why not
                           a message to a logger ──> planned again with such messages dropped, and that is noted
                           anything else         ──> an error: the reason, and the line of the user's code

A step in several graphs has no one plan: what lives between them is known to neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch._dynamo.eval_frame import remove_from_cache
from torch._dynamo.exc import Unsupported

from memsched.core.sizes import InputError
from memsched.inductor.calls import Batch, Model, call_model
from memsched.inductor.capture.lower import traced_anew
from memsched.inductor.compat import log_messages_dropped
from memsched.inductor.failures import break_of, logging_setting, past_messages
from memsched.records.report import GraphKind, GraphReport

__all__ = ["check_one_graph", "past_messages_of", "planned_as_one"]

T = TypeVar("T")


class _Broken(InputError):
    """The model breaks into several graphs."""


def check_one_graph(reports: Sequence[GraphReport]) -> None:
    """Raises InputError where the reports are of several graphs, not counting a backward; see `planned_as_one`."""
    parts = sum(report.kind is not GraphKind.BACKWARD for report in reports)
    if parts > 1:
        raise _Broken(f"the model breaks into {parts} graphs")


def past_messages_of(run: Callable[[], T]) -> tuple[T, str]:
    """What `run` returns, and what it takes for granted, in one line; mostly nothing.

    It runs again, with messages to loggers dropped, where one ended the graph.  Raises Unsupported for what else does.
    """
    try:
        return run(), ""
    except Unsupported as error:
        if not logging_setting(error):
            raise
        with log_messages_dropped():
            return run(), past_messages(error)


def planned_as_one(plan: Callable[[], T], model: Model, batch: Batch, otherwise: str = "") -> tuple[T, str]:
    """What `plan` returns, which calls `check_one_graph`, and what it takes for granted; see `past_messages_of`.

    otherwise: what else the user can do about a graph that breaks.

    Raises:
        InputError: the model breaks into several graphs; with the reason and the line.
    """

    def planned() -> T:
        try:
            return plan()
        except _Broken as broken:
            error = _break_of_graph(model, batch)
            if error is None:
                raise
            raise error from broken

    try:
        return past_messages_of(planned)
    except Unsupported as error:
        raise InputError(f"{error.__cause__}: {break_of(error)}{otherwise}") from error


def _break_of_graph(model: Model, batch: Batch) -> Unsupported | None:
    """What Dynamo says where it ends the first graph of `model`; None where it makes one graph."""
    traced = traced_anew(model)
    try:
        call_model(torch.compile(traced, backend="eager", fullgraph=True, dynamic=False), batch)
    except Unsupported as error:
        return error
    finally:
        remove_from_cache(traced.__func__)
    return None

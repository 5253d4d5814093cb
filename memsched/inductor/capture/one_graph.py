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

__all__ = ["check_one_graph", "planned_as_one"]

T = TypeVar("T")


class _Broken(InputError):
    """The model breaks into several graphs."""


def check_one_graph(reports: Sequence[GraphReport]) -> None:
    """Raises InputError where the reports are of several graphs, not counting a backward; see `planned_as_one`."""
    parts = sum(report.kind is not GraphKind.BACKWARD for report in reports)
    if parts > 1:
        raise _Broken(f"the model breaks into {parts} graphs")


def planned_as_one(plan: Callable[[], T], model: Model, batch: Batch, otherwise: str = "") -> tuple[T, str]:
    """What `plan` returns, which calls `check_one_graph`, and what it takes for granted, in one line; mostly nothing.

    otherwise: what else the user can do about a graph that breaks.

    Raises:
        InputError: the model breaks into several graphs; with the reason and the line.
    """
    try:
        return plan(), ""
    except _Broken as broken:
        error = _break_of_graph(model, batch)
        if error is None:
            raise
        if not logging_setting(error):
            raise InputError(f"{broken}: {break_of(error)}{otherwise}") from error
        with log_messages_dropped():
            return plan(), past_messages(error)


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

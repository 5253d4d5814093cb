"""When in a step the peak is: the moments that decide which lever can lower it.

    live   │            ▗▖ LOSS                forward ──> its end │ begin of the backward ──> end
    bytes  │        ▗▄▟███▙▄▖
           │    ▗▄▟██████████▙▄▖     ▗▖ END
           │ ▄▟█████████████████▙▄▄▟███
           └──────────────────────────────
             FORWARD      │  BACKWARD

At the LOSS the logits and their gradient are alive on top of what is saved; at the END of the backward the gradients
of all parameters are, and at the UPDATE, the optimizer's own step behind it, what that allocates as well.  Between, one
block works on what is saved.
"""

from __future__ import annotations

import enum

from memsched.core.peak import memory_profile
from memsched.records.report import GraphKind, GraphReport

__all__ = ["NEAR", "Moment", "moment_of"]

NEAR = 0.15
"""The share of the ops of a half of a step that counts as its begin or end."""


class Moment(enum.StrEnum):
    """Where a step peaks."""

    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"
    END = "end of the backward"
    UPDATE = "optimizer step"
    UNKNOWN = "unknown"


def moment_of(report: GraphReport) -> Moment:
    """The moment of the peak of the graph in which a step peaks."""
    if report.graph is None or report.schedule is None or not len(report.graph):
        return Moment.UNKNOWN
    place = memory_profile(report.graph, report.schedule.order).peak_step / len(report.graph)
    match report.kind:
        case GraphKind.FORWARD:
            return Moment.LOSS if place > 1 - NEAR else Moment.FORWARD
        case GraphKind.BACKWARD:
            return Moment.LOSS if place < NEAR else Moment.END if place > 1 - NEAR else Moment.BACKWARD
        case GraphKind.INFERENCE:
            return Moment.FORWARD
        case _:
            return Moment.UNKNOWN  # of a whole step see `step_moments.py`

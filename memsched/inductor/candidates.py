"""Inductor asks about a pair twice: while it collects what it may fuse, and before it fuses.  The second is judged.

Between the two most pairs change.  An optimizer's update in four ops for each parameter, all of which read one
learning rate, gives a pair for every two parameters; the ops of one update are fused first, and what is left to be
asked are the updates:

    collecting    a1 b1   a1 b2   a1 b3   b1 b2   b1 b3   b2 b3  …      each judged: a window of the whole backward
    fusing        a1 b1 ──> update 1     a2 b2 ──> update 2     …       then update 1 and 2, once

A pair that is collected and refused later is passed over; nothing else depends on it, where all pairs of a backend have
the same priority.  C++ has two: pairs of the second are looked at only in a round without any of the first
(`get_possible_fusions_with_highest_priority`, torch/_inductor/scheduler.py), and one that will be refused would end
the rounds.  There both questions are judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch._inductor.scheduler import BaseScheduling

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["Candidates"]


class Candidates:
    """Knows whether a scheduler is collecting pairs that it will ask about again."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._collecting = False
        self._collect = scheduler.get_possible_fusions
        scheduler.get_possible_fusions = self.collect

    def collect(self, *args: Any, **named: Any) -> Any:
        """`Scheduler.get_possible_fusions`."""
        self._collecting = True
        try:
            return self._collect(*args, **named)
        finally:
            self._collecting = False

    def will_be_asked_again(self, node: BaseSchedulerNode) -> bool:
        """Whether a pair with `node` that is approved now is asked about once more before it is fused."""
        return self._collecting and _one_priority(type(self._scheduler.get_backend(node.get_device())))


def _one_priority(backend: type) -> bool:
    return getattr(backend, "get_fusion_pair_priority", None) is BaseScheduling.get_fusion_pair_priority

"""Inductor asks about a pair twice: while it collects what it may fuse, and before it fuses.  The second is judged.

Between the two most pairs change.  An optimizer's update in four ops for each parameter, all of which read one
step count, gives a pair for every two parameters; the ops of one update are fused first, and what is left to be
asked are the updates:

    collecting    a1 b1   a1 b2   a1 b3   b1 b2   b1 b3   b2 b3  …      each judged: a window of the whole backward
    fusing        a1 b1 ──> update 1     a2 b2 ──> update 2     …       then update 1 and 2, once

A pair that is collected and refused later is passed over, and nothing else depends on it where all pairs of a backend
have the same priority.  C++ has two: pairs of the second are collected only in a round without any of the first
(`get_possible_fusions_with_highest_priority`, torch/_inductor/scheduler.py), and what will be refused would end the
rounds.  There both questions are judged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch._inductor.scheduler import BaseScheduling

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["Candidates"]


class Candidates:
    """Knows whether a scheduler collects pairs about which it will ask again."""

    def __init__(self) -> None:
        self._collecting: Scheduler | None = None

    @contextlib.contextmanager
    def of(self, scheduler: Scheduler) -> Iterator[None]:
        """Within the context it is known of this one."""
        collect = scheduler.get_possible_fusions

        def collected(*args: Any, **named: Any) -> Any:
            self._collecting = scheduler
            try:
                return collect(*args, **named)
            finally:
                self._collecting = None

        scheduler.get_possible_fusions = collected
        try:
            yield
        finally:
            del scheduler.get_possible_fusions

    def will_be_asked_again(self, node: BaseSchedulerNode) -> bool:
        """Whether a pair with `node` that is approved now is asked about once more before it is fused."""
        if self._collecting is None:
            return False
        backend = type(self._collecting.get_backend(node.get_device()))
        return getattr(backend, "get_fusion_pair_priority", None) is BaseScheduling.get_fusion_pair_priority

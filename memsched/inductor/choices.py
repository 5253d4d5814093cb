"""Fusion choices: Inductor's own, with one more question at the end: does the plan have room for it?

The question is asked last, after Inductor has found the fusion legal and profitable, because it is the dearest.  What
Inductor's own choice refuses is noted, since it need not be asked again (`memsched.inductor.asked_once`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch._inductor.choices import InductorChoices

from memsched.inductor.asked_once import StockChoices
from memsched.inductor.options import BackendOptions
from memsched.inductor.plan_key import plan_key
from memsched.inductor.session import session_of

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["PlannedChoices"]


class PlannedChoices(StockChoices):
    """Inductor's heuristics, and a refusal of the fusions that break the plan of the scheduler's session."""

    def __init__(self, options: BackendOptions) -> None:
        self.options = options

    def uuid(self) -> str:
        """Part of the cache key, through `config.inductor_choices_class`."""
        return plan_key(self.options)

    @staticmethod
    def can_fuse_vertical(
        scheduler: Scheduler, node1: BaseSchedulerNode, node2: BaseSchedulerNode, shared_data_score: int
    ) -> bool:
        """Producer and consumer in one kernel."""
        stock = InductorChoices.can_fuse_vertical(scheduler, node1, node2, shared_data_score)
        return stock and _plan_has_room(scheduler, node1, node2, shared_data_score)

    @staticmethod
    def can_fuse_horizontal(
        scheduler: Scheduler, node1: BaseSchedulerNode, node2: BaseSchedulerNode, shared_data_score: int
    ) -> bool:
        """Two nodes that do not depend on each other in one kernel."""
        stock = StockChoices.can_fuse_horizontal(scheduler, node1, node2, shared_data_score)
        return stock and _plan_has_room(scheduler, node1, node2, shared_data_score)


def _plan_has_room(scheduler: Scheduler, node1: BaseSchedulerNode, node2: BaseSchedulerNode, shared: int) -> bool:
    session = session_of(scheduler)
    return session is None or session.may_fuse(node1, node2, shared)

"""Inductor asks in every round about pairs of nodes that it has judged before: what cannot change is answered once.

`Scheduler.fuse_nodes` looks at all pairs of nodes that touch a common buffer, fuses some, and looks at all pairs again
until a round fuses nothing (four rounds are usual); memsched fuses the same nodes a second time as stock would.  Most
pairs are refused every time for a reason that only the two nodes know:

    round 1    a b  no: nothing shared        b c  yes ──> bc
    round 2    a b  (asked before)            a bc  a node that is new: asked

A refusal by `InductorChoices.can_fuse`, or by Inductor's own `can_fuse_horizontal`, looks at the reads and writes of
the two nodes, their sizes and places; nothing else.  It is kept for as long as both nodes read and write as they did:
whatever changes loops gives a node another `read_writes`.  Other refusals (an op between the two, no room in the plan)
depend on what was fused meanwhile, and are asked for again.

Claim: the answers are those that Inductor would give; `tests/inductor/test_asked_once.py` compares them one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch._inductor.choices import InductorChoices
from torch._inductor.scheduler import FusedSchedulerNode, SchedulerNode, fusion_log

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["AskedOnce", "StockChoices"]

_ATTRIBUTE = "memsched_asked_once"
"""Where a scheduler has its memory of refusals, if it has one."""

_PLAIN = (SchedulerNode, FusedSchedulerNode)
"""Nodes about which two choices decide; groups of other kinds ask about their parts, each in its own way."""


class AskedOnce:
    """Stands before `scheduler.can_fuse` from `begin` on, as long as the scheduler lives.

    saved: questions that were not asked again.
    for_good: the pair that is being asked about was refused for what its two nodes are.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.saved = 0
        self.for_good = False
        self._ask: Callable[..., bool] = scheduler.can_fuse
        self._refused: dict[Any, tuple[Any, Any]] = {}

    @classmethod
    def begin(cls, scheduler: Scheduler) -> None:
        """From here on `scheduler` asks this; not where somebody reads in Inductor's log why pairs are refused."""
        if not fusion_log.isEnabledFor(logging.DEBUG):
            memory = cls(scheduler)
            setattr(scheduler, _ATTRIBUTE, memory)
            scheduler.can_fuse = memory.can_fuse

    def can_fuse(self, node1: BaseSchedulerNode, node2: BaseSchedulerNode, *args: bool, **named: bool) -> bool:
        """`Scheduler.can_fuse`."""
        question = node1, node2, args, *named.items()
        state = node1.read_writes, node2.read_writes
        known = self._refused.get(question)
        if known is not None and known[0] is state[0] and known[1] is state[1]:
            self.saved += 1
            return False
        answer = self._ask(node1, node2, *args, **named)
        # One that asks about parts of a group before it answers says itself what was refused for good.
        for_good, self.for_good = self.for_good, False
        if for_good and not answer and type(node1) in _PLAIN and type(node2) in _PLAIN:
            self._refused[question] = state
        return answer


class StockChoices(InductorChoices):  # type: ignore[misc]
    """Inductor's heuristics as they are."""

    @staticmethod
    def can_fuse(
        scheduler: Scheduler, node1: BaseSchedulerNode, node2: BaseSchedulerNode, shared_data_score: int
    ) -> bool:
        """What holds for every two nodes."""
        stock = InductorChoices.can_fuse(scheduler, node1, node2, shared_data_score)
        return _noted(scheduler, stock)

    @staticmethod
    def can_fuse_horizontal(
        scheduler: Scheduler, node1: BaseSchedulerNode, node2: BaseSchedulerNode, shared_data_score: int
    ) -> bool:
        """Two nodes that do not depend on each other in one kernel."""
        stock = InductorChoices.can_fuse_horizontal(scheduler, node1, node2, shared_data_score)
        return _noted(scheduler, stock)


def _noted(scheduler: Scheduler, stock: bool) -> bool:
    """`stock`, the answer of Inductor's own choice about two nodes; a refusal is noted."""
    if not stock and (memory := getattr(scheduler, _ATTRIBUTE, None)) is not None:
        memory.for_good = True
    return stock

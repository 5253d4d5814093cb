"""Inductor asks in every round about pairs of nodes that it has judged before: what cannot change is answered once.

`Scheduler.fuse_nodes` looks at all pairs of nodes that touch a common buffer, fuses some, and looks at all pairs again
until a round fuses nothing (four rounds are usual); memsched fuses the same nodes a second time as stock would.  Most
pairs are refused every time for a reason that only the two nodes know:

    round 1    a b  no: nothing shared        b c  yes ──> bc
    round 2    a b  (asked before)            a bc  a node that is new: asked
    as stock   a b  (asked before)            a bc  (asked before: another object for the same two nodes)

A refusal by `InductorChoices.can_fuse`, or by Inductor's own `can_fuse_horizontal`, looks at the reads and writes of
the two nodes, their sizes and places; nothing else.  It is kept for all nodes that are *the same kernel*: of the same
nodes in the same order, each with loops that read and write the same (`memsched.inductor.same_kernel`).  So is what
two kernels share (`score_fusion_memory`), and whether Inductor's own rule finds that their fusion raises the peak.
Other refusals (an op between the two, no room in the plan) depend on what was fused meanwhile, and are asked for again.

Claim: the answers are those that Inductor would give; `tests/inductor/test_asked_once.py` compares them one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch._inductor.choices import InductorChoices
from torch._inductor.scheduler import fusion_log

from memsched.inductor.same_kernel import SameKernel

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["AskedOnce", "StockChoices"]

_ATTRIBUTE = "memsched_asked_once"
"""Where a scheduler has its memory of refusals, if it has one."""

_PURE = ("score_fusion_memory", "can_fusion_increase_peak_memory")
"""Methods of `Scheduler` about two nodes, whose answers follow from the two kernels."""


class AskedOnce:
    """Stands before `scheduler.can_fuse` from `begin` on, as long as the scheduler lives.

    saved: questions that were not asked again.
    for_good: the pair that is being asked about was refused for what its two nodes are.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.saved = 0
        self.for_good = False
        self._ask: Callable[..., bool] = scheduler.can_fuse
        self._kernels = SameKernel()
        self._refused = set[Any]()

    @classmethod
    def begin(cls, scheduler: Scheduler) -> None:
        """From here on `scheduler` asks this; not where somebody reads in Inductor's log why pairs are refused."""
        if fusion_log.isEnabledFor(logging.DEBUG):
            return
        memory = cls(scheduler)
        setattr(scheduler, _ATTRIBUTE, memory)
        scheduler.can_fuse = memory.can_fuse
        for name in _PURE:
            setattr(scheduler, name, memory._answered_once(getattr(scheduler, name)))

    def can_fuse(self, node1: BaseSchedulerNode, node2: BaseSchedulerNode, *args: bool, **named: bool) -> bool:
        """`Scheduler.can_fuse`."""
        question = self._question(node1, node2, args, named)
        if question is not None and question in self._refused:
            self.saved += 1
            return False
        answer = self._ask(node1, node2, *args, **named)
        # One that asks about parts of a group before it answers says itself what was refused for good.
        for_good, self.for_good = self.for_good, False
        if for_good and not answer and question is not None:
            self._refused.add(question)
        return answer

    def _question(self, node1: BaseSchedulerNode, node2: BaseSchedulerNode, args: Any, named: Any) -> Any:
        """What is asked about two kernels; None where one of them is of a kind that asks about its parts."""
        one, other = self._kernels.number(node1), self._kernels.number(node2)
        return None if one is None or other is None else (one, other, args, *named.items())

    def _answered_once(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """`method`, a function of two kernels, that is carried out once for each two."""
        known: dict[Any, Any] = {}

        def answer(node1: BaseSchedulerNode, node2: BaseSchedulerNode, *args: bool, **named: bool) -> Any:
            question = self._question(node1, node2, args, named)
            if question is None:
                return method(node1, node2, *args, **named)
            if question not in known:
                known[question] = method(node1, node2, *args, **named)
            return known[question]

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

"""Fusing the same nodes once more, as stock would: what stock's own kernels need is known, and can still be chosen.

    nodes ──> fused under the plan's refusals ──> order, peak ┐
      └─────> fused by stock's choices alone  ──> order, peak ┴──> the lower one; with equal peaks, the fewer kernels

A refusal is judged one pair at a time, in the order in which Inductor asks, and so a plan cannot cross a small rise
behind which two large buffers vanish.  Stock, which never looks, sometimes does.

`Scheduler.fuse_nodes` makes new nodes for what it fuses, notes them by name, and may give the nodes that it fuses other
loops (`_align_compatible_range_nodes`, torch/_inductor/codegen/cpp.py).  It looks at who reads a buffer, and behind it
some readers are forgotten (`memsched.inductor.order_only`).  `FusionState` keeps all four.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch._inductor import ir
from torch._inductor.virtualized import V
from torch.utils._ordered_set import OrderedSet

from memsched.inductor.asked_once import StockChoices

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["FusionState", "can_fuse_twice", "fuse_as_stock"]

_TABLES = ("name_to_fused_node", "node_to_stream")
"""What the scheduler notes about fused nodes; the second is not in every release."""


class FusionState:
    """All that fusion changes or goes by, as it is now: of `nodes`, of those inside them, and of their scheduler."""

    def __init__(self, scheduler: Scheduler, nodes: Sequence[BaseSchedulerNode]) -> None:
        self._scheduler = scheduler
        self._tables = {name: dict(getattr(scheduler, name)) for name in _TABLES if hasattr(scheduler, name)}
        self._fields = {node: {name: _copied(value) for name, value in vars(node).items()} for node in _all(nodes)}
        buffers = (*scheduler.name_to_buf.values(), *scheduler.name_to_donated_buffer.values())
        self._readers = [(buffer, _copied(buffer.users)) for buffer in buffers]

    def restore(self) -> None:
        """Put everything back; may be called again."""
        for name, table in self._tables.items():
            setattr(self._scheduler, name, dict(table))
        for node, values in self._fields.items():
            vars(node).clear()
            vars(node).update({name: _copied(value) for name, value in values.items()})
        for buffer, users in self._readers:
            buffer.users = _copied(users)


def can_fuse_twice(nodes: Sequence[BaseSchedulerNode]) -> bool:
    """False where fusing means to measure kernels: that takes long, and settles which template is used."""
    return not any(isinstance(node.node, ir.MultiTemplateBuffer) for node in _all(nodes))


def fuse_as_stock(scheduler: Scheduler, nodes: Sequence[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
    """The nodes as stock fuses them; changes the state."""
    with V.set_choices_handler(StockChoices()):
        fused: list[BaseSchedulerNode] = scheduler.fuse_nodes(list(nodes))
    return fused


def _all(nodes: Sequence[BaseSchedulerNode]) -> Iterator[BaseSchedulerNode]:
    for node in nodes:
        yield node
        yield from (inner for inner in node.get_nodes() if inner is not node)


def _copied(value: Any) -> Any:
    """A container for itself; what it holds is shared."""
    return copy.copy(value) if isinstance(value, (list, dict, set, OrderedSet)) else value

"""Which nodes of the scheduler are the same kernel: fused anew from the same nodes, with the same loops.

`Scheduler.fuse_nodes` makes a new object for every group that it fuses, and a trial of other loops that is given up
leaves behind new reads and writes which say what the old ones said.  What two kernels would share does not depend on
which objects they are:

    fused under the plan     a b ──> ab'     of nodes (a, b), which read X[d0, d1] and write Y[d0, d1]     number 7
    fused as stock           a b ──> ab"     the same nodes, the same reads and writes                     number 7
    with other loops         a b ──> ab"     reads X[d1, d0]: not the same kernel                          number 8

Whatever changes the loops of a node gives it, and each group it is in, another `read_writes` object, and that changes
nowhere else (`set_read_writes`, torch/_inductor/scheduler.py); a node is looked at anew only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch._inductor.scheduler import FusedSchedulerNode, SchedulerNode

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["SameKernel"]

_PLAIN = (SchedulerNode, FusedSchedulerNode)
"""Loops, alone or fused; groups of other kinds are judged by their parts, each kind in its own way."""


class SameKernel:
    """Gives nodes numbers: equal ones to nodes of one scheduler that are the same kernel."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._seen: dict[BaseSchedulerNode, tuple[Any, int]] = {}

    def number(self, node: BaseSchedulerNode) -> int | None:
        """The number of a node as it is now; None for a node that is not plain loops."""
        if type(node) not in _PLAIN:
            return None
        seen = self._seen.get(node)
        if seen is not None and seen[0] is node.read_writes:
            return seen[1]
        if type(node) is SchedulerNode:
            of = _loops(node)
        else:
            of = (node.group, *(self.number(inner) if type(inner) in _PLAIN else inner for inner in node.get_nodes()))
        number = self._numbers.setdefault(of, len(self._numbers))
        self._seen[node] = node.read_writes, number
        return number


def _loops(node: SchedulerNode) -> Any:
    """A node of the graph, and what its loops read and write now, in which places."""
    return node, node.group, tuple(node.read_writes.reads), tuple(node.read_writes.writes)

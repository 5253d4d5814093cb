"""Do C++ kernels that are fused at an outer level really become one loop?

    for row:  n1: m = max(x[row])           Fused in the scheduler, n1 and n2 shall share the loop over the rows.  While
              n2: y[row] = exp(x[row] - m)  code is generated it may turn out that they cannot: one of the two is
                                            vectorized across rows, or the rows are few and long.

Then each is generated for itself, one after the other: nothing is saved, and what was to be a row is a whole buffer
(`CppScheduling.codegen_outer_loop_node` and `check_outer_fusion_loop_level_attr`, torch/_inductor/codegen/cpp.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from torch._inductor.codegen.cpp import CppScheduling, OuterLoopFusedSchedulerNode
from torch._inductor.utils import get_dtype_size
from torch._inductor.virtualized import V

from memsched.inductor.compat import tiled_loops
from memsched.inductor.sizes import elements_of

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["OuterLoops", "bytes_between", "loop_ranges"]

_Loops: TypeAlias = "tuple[tuple[Any, ...], tuple[Any, ...], int]"
"""The bodies of a kernel, the extents of its loops, and how many of them are asked about."""

_KNOWN = "_memsched_outer_loops"
"""The attribute of a scheduler that keeps its `OuterLoops`."""

_LONG_INNER_LOOP = 300
"""An inner loop that is this many times as long as all outer ones is left to itself."""


class OuterLoops:
    """Answers for the kernels of one graph; what is known about loops is kept, since code generation is slow to say."""

    def __init__(self) -> None:
        self._steps: dict[_Loops, list[tuple[Any, int]] | None] = {}

    @classmethod
    def of_this_graph(cls) -> OuterLoops:
        """Those of the scheduler of `V.graph`: one for all questions about it, before fusion and after."""
        scheduler = V.graph.scheduler
        known: OuterLoops | None = getattr(scheduler, _KNOWN, None)
        if known is None:
            known = cls()
            setattr(scheduler, _KNOWN, known)
        return known

    def are_one(self, node: OuterLoopFusedSchedulerNode) -> bool:
        """Whether the kernels of `node` become one loop."""
        return self._share(node.get_outer_nodes(), node.outer_loop_fusion_depth)

    def would_be_one(self, first: BaseSchedulerNode, second: BaseSchedulerNode) -> bool:
        """Whether two nodes would become one loop if they were fused; True where they would not be loops in C++."""
        device = first.get_device()
        if device is None or device.type != "cpu":
            return True
        scheduling = V.graph.scheduler.get_backend(device)
        if not isinstance(scheduling, CppScheduling) or not scheduling.can_fuse_vertical_outer_loop(first, second):
            return True
        depth = scheduling._get_outer_loop_fusion_depth(first, second)
        return self._share([*_kernels(first), *_kernels(second)], depth)

    def _share(self, kernels: Sequence[BaseSchedulerNode], depth: int) -> bool:
        first, *others = kernels
        steps = self._steps_of(first, depth)
        return steps is not None and all(self._steps_of(other, depth) == steps for other in others)

    def _steps_of(self, kernel: BaseSchedulerNode, depth: int) -> list[tuple[Any, int]] | None:
        """Extent and step of the outer loops of a kernel; None if they are few and the inner one is long."""
        # Fusion may give a node other loops, under its old name: the bodies say which loops are meant.
        key = (tuple(node._body for node in kernel.get_nodes()), tuple(loop_ranges(kernel)), depth)
        if key not in self._steps:
            self._steps[key] = _steps(kernel, depth)
        return self._steps[key]


def bytes_between(first: BaseSchedulerNode, second: BaseSchedulerNode) -> int:
    """Bytes of what one kernel of two nodes writes and only their other kernels read: rows, if they become one loop."""
    kernels = [*_kernels(first), *_kernels(second)]
    everything = {node for kernel in kernels for node in kernel.get_nodes()}
    sizes = [0]
    for kernel in kernels:
        for buffer in kernel.get_outputs():
            readers = {user.node for user in buffer.users}
            if readers <= everything and not readers <= set(kernel.get_nodes()):
                sizes.append(elements_of(buffer.node.get_numel()) * get_dtype_size(buffer.node.get_dtype()))
    return sum(sizes)


def loop_ranges(kernel: BaseSchedulerNode) -> list[Any]:
    """The extents of the loops of a kernel, reductions innermost."""
    members: list[Any] = list(kernel.get_nodes())
    _, (group, reduction_group) = max(members, key=lambda member: int(member.is_reduction())).group
    return [*group, *reduction_group]


def _steps(kernel: BaseSchedulerNode, depth: int) -> list[tuple[Any, int]] | None:
    ranges = loop_ranges(kernel)
    outside, inside = math.prod(ranges[:depth]), ranges[depth] if len(ranges) > depth else 0
    known = all(getattr(size, "is_number", True) for size in (outside, inside))
    if known and outside * _LONG_INNER_LOOP < inside:
        return None
    tiled = tiled_loops(list(kernel.get_nodes()))
    return [(ranges[level], tiled.get(level, 1)) for level in range(depth)]


def _kernels(node: BaseSchedulerNode) -> list[BaseSchedulerNode]:
    return list(node.get_outer_nodes()) if isinstance(node, OuterLoopFusedSchedulerNode) else [node]

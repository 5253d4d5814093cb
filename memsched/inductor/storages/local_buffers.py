"""Buffers that never reach the allocator: code generation keeps them inside one kernel.

    n1: buf0 = x + 1          Both run in one kernel and nobody else reads buf0: it stays in registers.
    n2: buf1 = buf0 * 2

Two rules of Inductor decide this, and the second changes what may be written in place:

`kernel_local`   all readers are in the kernel that writes it (`Kernel.remove_kernel_local_buffers`).  The name still
    counts for in-place updates: buf1 may take over x through buf0.
`thread_local`   CPU, loops fused at an outer level: a row of the buffer is enough, each thread has one on its own
    (`CppScheduling.codegen_outer_loop_node`, "local buffer").  The name is gone: nothing is written in place over it.
    Where the loops do not fit each other, the buffers are whole after all (`memsched.inductor.storages.outer_loops`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch._inductor.codegen.cpp import OuterLoopFusedSchedulerNode
from torch._inductor.scheduler import ForeachKernelSchedulerNode, FusedSchedulerNode, SchedulerNode
from torch._inductor.virtualized import V

from memsched.inductor.storages.outer_loops import OuterLoops, loop_ranges

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["cpp_reductions", "kernel_local", "may_be_thread_local", "thread_local"]


def kernel_local(nodes: Sequence[BaseSchedulerNode]) -> set[str]:
    """The buffers that only the kernel that writes them reads."""
    removable = V.graph.scheduler.can_buffer_be_removed_through_fusion
    return {
        buffer.get_name()
        for node in nodes
        for kernel in _kernels(node)
        for buffer in kernel.get_outputs()
        if removable(buffer.get_name(), kernel.get_operation_names())
    }


def _kernels(node: BaseSchedulerNode) -> Sequence[BaseSchedulerNode]:
    """The fused kernels that `node` becomes; none of an op that is not fused."""
    if isinstance(node, OuterLoopFusedSchedulerNode):
        return list(node.get_outer_nodes())
    if isinstance(node, FusedSchedulerNode) and not isinstance(node, ForeachKernelSchedulerNode):
        return [node]
    return []


def cpp_reductions(nodes: Sequence[BaseSchedulerNode]) -> set[int]:
    """The nodes before fusion that reduce in C++: fused with others, their kernel keeps rows (`thread_local`)."""
    devices = [node.get_device() for node in nodes]
    reducing = (op for op, node in enumerate(nodes) if isinstance(node, SchedulerNode) and node.is_reduction())
    return {op for op in reducing if (device := devices[op]) is not None and device.type == "cpu"}


def thread_local(nodes: Sequence[BaseSchedulerNode]) -> set[str]:
    """The buffers of which C++ threads keep a row each."""
    loops = OuterLoops.of_this_graph()
    return {
        name
        for node in nodes
        if isinstance(node, OuterLoopFusedSchedulerNode) and loops.are_one(node)
        for name in _row_buffers(node)
    }


def may_be_thread_local(nodes: Sequence[BaseSchedulerNode]) -> set[str]:
    """Those, and the ones that become whole buffers after all: in both nothing is written in place."""
    outer = (node for node in nodes if isinstance(node, OuterLoopFusedSchedulerNode))
    return {name for node in outer for name in _row_buffers(node)}


def _row_buffers(node: OuterLoopFusedSchedulerNode) -> Iterator[str]:
    depth = node.outer_loop_fusion_depth
    if any(len(loop_ranges(kernel)) != depth + 1 for kernel in node.get_outer_nodes()):
        return
    members = node.get_nodes()
    for member in members:
        if member.is_reduction() or len(member.get_outputs()) != 1:
            continue
        buffer = member.get_outputs()[0]
        inside = all(user.node in members for user in buffer.users)
        if inside and buffer.node.get_layout().is_contiguous() and _touched_in_order(member, buffer):
            yield buffer.get_name()


def _touched_in_order(member: Any, buffer: Any) -> bool:
    """Whether it is written and read element by element, in the order of the loops."""
    in_order: Any = 0
    stride: Any = 1
    for variable, extent in reversed(member._body.var_ranges.items()):
        in_order += stride * variable
        stride *= extent
    name = buffer.get_name()
    return bool(member._body.get_write_expr(name) == in_order) and all(
        isinstance(user.node, SchedulerNode) and user.node._body.get_read_expr(name) == in_order
        for user in buffer.users
    )

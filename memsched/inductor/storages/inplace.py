"""Which outputs Inductor writes over an input that dies: what `decide_inplace_update` will answer, for any order.

    buf1 = relu(buf0)      buf0 has no reader left when relu runs: buf1 takes its storage, nothing is allocated

Inductor decides while it generates code for one node (torch/_inductor/scheduler.py, `decide_inplace_update`).  All of
its conditions but one are known beforehand: device, type and size fit, the node reads where it writes, the layout
owns its storage.  The one that depends on the order is that every *other* reader of the input has run.  Readers that
are ancestors of the node always have; the others are what a `Reuse` waits for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch._inductor import config, ir
from torch._inductor.codegen.common import BackendFeature
from torch._inductor.codegen.wrapper import can_match_buffer_size
from torch._inductor.dependencies import Dep, MemoryDep
from torch._inductor.scheduler import BaseSchedulerNode, NopKernelSchedulerNode, SchedulerNode
from torch._inductor.virtualized import V

from memsched.inductor.storages.local_buffers import may_be_thread_local
from memsched.storage.pieces import Reuse

if TYPE_CHECKING:
    from torch._inductor.scheduler import Scheduler

__all__ = ["reuses_of"]

_NOT_OWNED = (ir.NoneLayout, ir.MultiOutputLayout, ir.MutationLayoutSHOULDREMOVE, ir.CommBufferLayout)


def reuses_of(nodes: Sequence[BaseSchedulerNode]) -> list[list[Reuse]]:
    """For each of the fused nodes what it may reuse, in the order in which Inductor tries it.

    The first of an output's candidates whose other readers have run, and which no output has taken before, is taken.
    """
    if not config.inplace_buffers:
        return [[] for _ in nodes]
    op_of_name = {name: op for op, node in enumerate(nodes) for name in node.get_operation_names()}
    rows = may_be_thread_local(nodes)
    reuses = [[*_reuses_of_op(op, node, op_of_name)] for op, node in enumerate(nodes)]
    return [[one for one in some if rows.isdisjoint((one.input, one.output))] for some in reuses]


def _reuses_of_op(op: int, fused: BaseSchedulerNode, op_of_name: Mapping[str, int]) -> Iterator[Reuse]:
    for node in fused.get_nodes():
        if not isinstance(node, SchedulerNode) or not V.graph.has_feature(
            node.get_device(), BackendFeature.INPLACE_BUFFERS
        ):
            continue
        for output in node.get_outputs():
            if not _may_take_over(output.node):
                continue
            for read in node.read_writes.reads:
                waits_for = _other_readers(op, node, read.name, op_of_name)
                if waits_for is not None and _fits(node, _buffer_of(read.name), output):
                    yield Reuse(op, output.get_name(), read.name, waits_for, _beside(node, read.name, op_of_name))


def _may_take_over(output: Any) -> bool:
    return (
        output.should_allocate()
        and not output.get_inputs_that_alias_output()
        and not output.get_mutation_names()
        and not isinstance(output.get_output_spec(), ir.CommBufferLayout)
    )


def _buffer_of(name: str) -> Any:
    scheduler: Scheduler = V.graph.scheduler
    donated = scheduler.name_to_donated_buffer.get(name)
    return donated if donated is not None else scheduler.name_to_buf.get(name)


def _other_readers(op: int, node: SchedulerNode, name: str, op_of_name: Mapping[str, int]) -> frozenset[int] | None:
    """The ops that must have run for `node` to be the only reader left; None when it never is, or is no candidate."""
    read = _buffer_of(name)
    if read is None or read.node is None or not _may_be_reused(name) or read.users is None:
        return None
    waits_for = set()
    itself = False
    for user in read.users:
        if user.node is node:
            itself = bool(user.can_inplace)
            continue
        reader = user.node.get_name()
        if reader in node.ancestors:
            continue
        other = op_of_name.get(reader)
        if other is None or other == op:  # the caller, or the same kernel: it still reads
            return None
        waits_for.add(other)
    return frozenset(waits_for) if itself else None


def _beside(node: SchedulerNode, name: str, op_of_name: Mapping[str, int]) -> frozenset[int]:
    """The other ops that read `name` before `node`, under any order, and at the same index."""
    touches = _touches(node, name)
    readers = (user.node for user in _buffer_of(name).users if user.node.get_name() in node.ancestors)
    return frozenset(op_of_name[one.get_name()] for one in readers if _touches(one, name) == touches)


def _touches(node: BaseSchedulerNode, name: str) -> set[Dep]:
    dependencies = node.read_writes.reads_and_writes()
    return {_with_merged_loops(one, node) for one in dependencies if one.name == name}


def _may_be_reused(name: str) -> bool:
    """`PythonWrapperCodegen.can_reuse`, without what depends on the order."""
    graph = V.graph
    if name in graph.graph_inputs and not isinstance(graph.graph_inputs_original[name], ir.DonatedBuffer):
        return False
    return not (name in graph.constants or name in graph.torchbind_constants or name in graph.never_reuse_buffers)


def _fits(node: SchedulerNode, read: Any, output: Any) -> bool:
    if isinstance(read.defining_op, NopKernelSchedulerNode):
        return False
    if isinstance(read.node.get_output_spec(), _NOT_OWNED):
        return False
    made_by = read.defining_op.node if read.defining_op is not None else None
    if isinstance(made_by, ir.FallbackKernel | ir.MultiOutput) and read.node.get_inputs_that_alias_output():
        return False
    return bool(can_match_buffer_size(read.node, output.node)) and _one_index_in_kernel(node, read)


def _one_index_in_kernel(node: SchedulerNode, read: Any) -> bool:
    """Whether everything in the same kernel that touches the input touches it at the same index."""
    scheduler: Scheduler = V.graph.scheduler
    fused = scheduler.get_fused_node(node)
    touches = set()
    for user in read.users:
        reader = user.node
        if not isinstance(reader, BaseSchedulerNode) or reader.get_first_name() not in scheduler.name_to_fused_node:
            continue
        if scheduler.get_fused_node(reader) is fused:
            touches |= _touches(reader, read.get_name())
    return len(touches) <= 1


def _with_merged_loops(dependency: Dep, reader: BaseSchedulerNode) -> Dep:
    """As code generation will see it: on a GPU, Inductor merges loops behind our pass (`Scheduler.merge_loops`)."""
    merges = config.loop_ordering_after_fusion and isinstance(reader, SchedulerNode) and reader.is_gpu()
    return dependency.normalize() if merges and isinstance(dependency, MemoryDep) else dependency

"""Scheduler nodes -> `Graph`, and an order of it -> scheduler nodes.

All knowledge of what Inductor means by a buffer's size, by a mutation, by an alias or by a fake dependency is here.
The sizes and the readers are Inductor's own (torch/_inductor/memory.py, `prepare_planning_info`), told in the terms
of `memsched.core`:

    buf0 = fallback(x)      MultiOutputLayout: allocates 30, frees 0     no buffer, an order edge to each piece
      buf1 = buf0[0]        allocates 0, frees 10                        10 bytes, produced by fallback, read by [0]
      buf2 = buf0[1]        allocates 0, frees 20                        20 bytes, produced by fallback, read by [1]
    buf3 = mutate_(buf1)    renames buf1: 0 bytes                        readers of buf3 are readers of buf1
    WeakDep(is_fake)        orders two nodes, keeps nothing alive        order edge

A kernel with several outputs allocates its own: Inductor also counts those of a kernel that reads a view of its result
(`compute_size_for_scheduler_buffer`: complex numbers as pairs of real ones).  They are taken out of its estimate.

With every buffer counted, the peak of any order of the graph is what `estimate_peak_memory` says; `extract_graph`
checks that on the incoming order and raises `ExtractionError` when it does not hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch._inductor import ir, memory
from torch._inductor.utils import get_dtype_size
from torch._inductor.virtualized import V
from torch.utils._ordered_set import OrderedSet

from memsched.core.graph import Buffer, Graph, GraphError, Op
from memsched.core.peak import peak_bytes
from memsched.inductor.compat import ESTIMATE_IS_EXACT
from memsched.inductor.sizes import elements_of, is_range, is_tensor

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["ExtractionError", "extract_graph", "ranged_buffers"]


class ExtractionError(RuntimeError):
    """The nodes do not mean what this module believes: nothing may be planned on them."""


@dataclass
class _Extraction:
    """The tables that one extraction fills: node positions, buffers and order edges."""

    nodes: Sequence[BaseSchedulerNode]
    outputs: OrderedSet[str]

    def __post_init__(self) -> None:
        self.index = {node: at for at, node in enumerate(self.nodes)}
        self.node_of_buffer = {name: at for at, node in enumerate(self.nodes) for name in node.get_buffer_names()}
        self.buffers: list[Buffer] = []
        self.edges: set[tuple[int, int]] = set()
        self.ranged: set[str] = set()

    def add_buffer(self, name: str, size: int, producer: int | None, readers: Iterable[int], upper: int = 0) -> None:
        """Add a buffer of `size` bytes by Inductor's count, or of `upper`, if its size depends on data."""
        if upper and not size:
            self.ranged.add(name)
            size = upper
        consumers = tuple(sorted(set(readers) - {producer}))
        kept = name in self.outputs
        if size and (producer is not None or consumers):
            self.buffers.append(Buffer(name, size, producer, consumers, kept))
        if producer is not None:
            self.edges.update((producer, consumer) for consumer in consumers)

    def add_node_buffers(self, at: int, node: BaseSchedulerNode) -> None:
        for buffer in node.get_outputs():
            info = buffer.mpi_buffer
            readers = [self.index[reader] for reader in info.succ_nodes]
            allocated_here = info.size_alloc == info.size_free
            producer = at if allocated_here else self._allocating_node(buffer)
            if not allocated_here:
                readers.append(at)
            self.add_buffer(buffer.get_name(), info.size_free, producer, readers, _upper_bytes(buffer))
            self.edges.update((at, self.index[reader]) for reader in info.succ_nodes_for_ordering)

    def _allocating_node(self, buffer: Any) -> int:
        """The node that allocates a piece of a multi-output kernel: up the chain of `MultiOutput`s to its kernel."""
        if buffer.mpi_buffer.size_free == 0:
            return self.node_of_buffer[buffer.get_name()]
        return self.node_of_buffer[_kernel_of(buffer.node).get_name()]

    def add_dependencies(self) -> None:
        """The precedences that the scheduler itself sorts by (`Scheduler.topological_sort_schedule`)."""
        for at, node in enumerate(self.nodes):
            for dependency in node.unmet_dependencies:
                before = self.node_of_buffer.get(dependency.name)
                if before is not None:
                    self.edges.add((before, at))

    def pinned(self) -> list[int]:
        """The nodes whose effects no dependency tells, in program order."""
        return sorted(filter(lambda at: _is_pinned(self.nodes[at]), self.index.values()), key=self._program_order)

    def _program_order(self, at: int) -> int:
        order: int = self.nodes[at].min_order
        return order

    def graph(self, name: str, stage: str, pinned: Sequence[int]) -> Graph:
        """The graph, in which the nodes `pinned` keep their order."""
        implied = {(b.producer, reader) for b in self.buffers if b.producer is not None for reader in b.consumers}
        edges = sorted(edge for edge in (self.edges | {*itertools.pairwise(pinned)}) - implied if edge[0] != edge[1])
        ops = tuple(Op(node.get_name(), type(node).__name__) for node in self.nodes)
        device = next((str(d.type) for d in map(_device_of, self.nodes) if d is not None), "")
        return Graph(name, ops, tuple(self.buffers), tuple(edges), _torch_version(), device, stage)


def extract_graph(nodes: Sequence[BaseSchedulerNode], name: str, stage: str) -> Graph:
    """The graph of `nodes`, which the scheduler of `V.graph` holds, with op i = nodes[i]; sizes in bytes.

    Nodes with effects that no dependency tells keep program order, though the sort after Inductor's fusion may have
    turned them round: then the incoming order of the graph is not legal.  Where fusion made program order impossible,
    they keep the incoming one.

    Raises:
        ExtractionError: the peak of the incoming order is not what Inductor estimates for it.
    """
    scheduler: Scheduler = V.graph.scheduler
    inputs = OrderedSet(V.graph.graph_inputs.keys())
    outputs = OrderedSet(V.graph.get_output_names())
    estimate, freeable = memory.prepare_planning_info(
        list(nodes), scheduler.name_to_buf, scheduler.name_to_fused_node, inputs, outputs
    )
    if _count_own_outputs(nodes):
        estimate, _ = memory.estimate_peak_memory(list(nodes), freeable, outputs)
    extraction = _Extraction(nodes, outputs)
    for input_name, buffer in freeable.items():
        readers = [extraction.index[reader] for reader in buffer.mpi_buffer.succ_nodes]
        upper = _bytes_in_range(V.graph.graph_inputs[input_name])
        extraction.add_buffer(input_name, buffer.mpi_buffer.size_free, None, readers, upper)
    for at, node in enumerate(nodes):
        extraction.add_node_buffers(at, node)
    extraction.add_dependencies()
    pinned = extraction.pinned()
    try:
        graph = extraction.graph(name, stage, pinned)
    except GraphError:
        graph = extraction.graph(name, stage, sorted(pinned))
    known = tuple(buffer for buffer in graph.buffers if buffer.name not in extraction.ranged)
    counted = graph if not extraction.ranged else replace(graph, buffers=known, order_edges=graph.precedences)
    incoming = peak_bytes(counted, range(len(nodes)))
    if ESTIMATE_IS_EXACT and incoming != estimate:
        raise ExtractionError(f"{name}: the extracted graph peaks at {incoming} bytes, Inductor estimates {estimate}")
    return graph


def _count_own_outputs(nodes: Sequence[BaseSchedulerNode]) -> bool:
    """Make every kernel with several outputs allocate exactly those; whether Inductor had counted something else."""
    own: dict[str, int] = {}
    buffers = [buffer for node in nodes for buffer in node.get_outputs() if buffer.node is not None]
    for buffer in buffers:
        if isinstance(buffer.node, ir.MultiOutput):
            kernel = _kernel_of(buffer.node).get_name()
            own[kernel] = own.get(kernel, 0) + buffer.mpi_buffer.size_free
    changed = False
    for buffer in buffers:
        is_kernel = isinstance(getattr(buffer.node, "layout", None), ir.MultiOutputLayout)
        if is_kernel and not isinstance(buffer.node, ir.MultiOutput) and buffer.mpi_buffer.size_alloc:
            counted = own.get(buffer.get_name(), 0)
            changed |= counted != buffer.mpi_buffer.size_alloc
            buffer.mpi_buffer.size_alloc = counted
    return changed


def _kernel_of(piece: Any) -> Any:
    """Up the chain of `MultiOutput`s, the kernel whose result they take apart."""
    while isinstance(piece, ir.MultiOutput):
        piece = piece.inputs[0]
    return piece


def ranged_buffers(nodes: Sequence[BaseSchedulerNode]) -> list[str]:
    """The inputs, and the buffers that `nodes` write, whose sizes depend on data, by name."""
    inputs = [name for name, value in V.graph.graph_inputs.items() if _bytes_in_range(value)]
    buffers = [buffer for node in nodes for buffer in node.get_outputs()]
    return inputs + [buffer.get_name() for buffer in buffers if _upper_bytes(buffer)]


def _upper_bytes(buffer: Any) -> int:
    """The most bytes of a buffer whose size depends on data; 0 for any other."""
    if buffer.node is None or not buffer.node.has_tensor_output():
        return 0
    if isinstance(buffer.node.get_output_spec(), (ir.NoneLayout, ir.MultiOutputLayout)):
        return 0
    if buffer.get_name() in V.graph.scheduler.mutation_real_name:
        return 0
    return _bytes_in_range(buffer.node)


def _bytes_in_range(value: Any) -> int:
    """The most bytes of an input or a result whose size depends on data; 0 for any other, and for what is no tensor."""
    if not is_tensor(value) or not is_range(value.get_numel()):
        return 0
    return elements_of(value.get_numel()) * int(get_dtype_size(value.get_dtype()))


def _is_pinned(node: BaseSchedulerNode) -> bool:
    """Whether the node must stay in order with its like: control flow, and operators with effects or random state.

    `run_with_rng_state` is neither: it is given the state that it uses and restores the one that it found.  Nor is the
    wait for a collective: it depends on that one alone, while collectives must start in one order on all ranks.
    """
    operation = node.node
    if operation is None or isinstance(operation, ir._WaitKernel):
        return False
    if type(operation).__name__ in ("Conditional", "Switch", "WhileLoop", "InvokeSubgraph"):
        return True
    if not isinstance(operation, ir.FallbackKernel):
        return False
    from torch._ops import HigherOrderOperator

    overload = operation.op_overload
    if isinstance(overload, HigherOrderOperator):
        return bool(overload.name() != "run_with_rng_state")
    return bool(operation.has_side_effects())


def _device_of(node: BaseSchedulerNode) -> Any:
    return node.get_device()


def _torch_version() -> str:
    import torch

    return str(torch.__version__)

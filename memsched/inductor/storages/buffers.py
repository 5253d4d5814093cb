"""The names of a graph's buffers, with the bytes of the storage behind each, and which names are views of which.

Only what does not depend on the order is told here; `memsched.storage.model` adds what does.  The readers are
those of `extract_graph`, so mutations and renamed buffers are already followed to the storage that they change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._inductor import ir
from torch._inductor.utils import get_dtype_size
from torch._inductor.virtualized import V

from memsched.core.graph import Graph
from memsched.inductor.sizes import elements_of
from memsched.inductor.storages.local_buffers import kernel_local, thread_local
from memsched.inductor.storages.saved_copies import saved_copies
from memsched.inductor.storages.tangents import tangents
from memsched.storage.pieces import CUDA_ALIGNMENT, Piece

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["concatenated", "pieces_of", "views"]


def pieces_of(graph: Graph, nodes: Sequence[BaseSchedulerNode]) -> dict[str, Piece]:
    """The buffers of `graph`, by name, without the inputs that the caller holds on to."""
    freed = _freed_inputs()
    siblings = _siblings(nodes)
    local, gone = kernel_local(nodes), thread_local(nodes)
    spans = {name: _span(names) for names in _sharing_inputs() for name in names}
    pieces = {}
    for buffer in graph.buffers:
        held = buffer.producer is None and freed is not None and buffer.name not in freed
        if held or buffer.name in gone:
            continue
        readers = {*buffer.consumers, *siblings.get(buffer.name, ())} - {buffer.producer}
        size = max(_storage_bytes(buffer.name), spans.get(buffer.name, 0))
        name_is_local = buffer.name in local and not buffer.kept
        pieces[buffer.name] = Piece(size, buffer.producer, frozenset(readers), buffer.kept, name_is_local)
    pieces |= dict(_unread_inputs(graph, freed or ())) | dict(_unread_results(nodes)) | dict(_handed_over(nodes))
    of_the_caller = _views_of_held_inputs(nodes, pieces)
    return {name: piece for name, piece in pieces.items() if name not in of_the_caller}


def views(nodes: Sequence[BaseSchedulerNode], pieces: Mapping[str, Piece]) -> dict[str, str]:
    """For each name that is a view of another: that other; inputs that share a storage are views of the first."""
    owner = dict(_shared_inputs(pieces))
    for node in nodes:
        for buffer in node.get_outputs():
            name = buffer.get_name()
            if name in pieces and not isinstance(_layout(buffer), ir.NonOwningLayout):
                target = next((alias for alias in _aliased(buffer) if alias in pieces and alias != name), None)
                if target is not None:
                    owner[name] = target
    return owner


def _views_of_held_inputs(nodes: Sequence[BaseSchedulerNode], pieces: Mapping[str, Piece]) -> set[str]:
    """The results of calls that are views of what the caller holds on to, such as an input as complex numbers."""
    held = V.graph.graph_inputs.keys() - pieces.keys()
    outputs = (buffer for node in nodes for buffer in node.get_outputs())
    return {buffer.get_name() for buffer in outputs if not held.isdisjoint(_aliased(buffer))}


def concatenated(nodes: Sequence[BaseSchedulerNode], pieces: Mapping[str, Piece]) -> dict[str, str]:
    """For each name that is written straight into a larger buffer: the outermost such buffer (`NonOwningLayout`)."""
    whole = {}
    for node in nodes:
        for buffer in node.get_outputs():
            layout = _layout(buffer)
            if isinstance(layout, ir.NonOwningLayout):
                whole[buffer.get_name()] = layout.view.get_name()
    outermost = {}
    for part, target in whole.items():
        while target in whole:
            target = whole[target]
        if part in pieces and target in pieces:
            outermost[part] = target
    return outermost


def _freed_inputs() -> set[str] | None:
    """The inputs that die inside: saved for backward, and not views of anything that lives on; None: not known."""
    graph = V.graph
    if not graph.is_backward or graph.bw_donated_idxs is None:
        return None
    return set(graph.scheduler.name_to_donated_buffer)


def _unread_inputs(graph: Graph, freed: Collection[str]) -> Iterator[tuple[str, Piece]]:
    """Saved tensors that turned out not to be needed: no line of the code deletes them, so the call holds them.

    A graph has no buffer that no op reads: the first op counts as a reader, which changes nothing of what is kept.
    """
    read = {buffer.name for buffer in graph.buffers}
    for name in sorted(set(freed) - read):
        yield name, Piece(_storage_bytes(name), None, frozenset({0}), kept=True)


def _handed_over(nodes: Sequence[BaseSchedulerNode]) -> Iterator[tuple[str, Piece]]:
    """Inputs that die inside, though Inductor counts them among what the caller holds: copies, and tangents."""
    returned = set(V.graph.get_output_names())
    for name in sorted(saved_copies(V.graph) | tangents(V.graph)):
        readers = {op for op, node in enumerate(nodes) for read in node.read_writes.reads if read.name == name}
        yield name, Piece(_storage_bytes(name), None, frozenset(readers), kept=name in returned)


def _shared_inputs(pieces: Mapping[str, Piece]) -> Iterator[tuple[str, str]]:
    for names in _sharing_inputs():
        known = [name for name in names if name in pieces]
        yield from ((name, known[0]) for name in known[1:])


def _sharing_inputs() -> list[list[str]]:
    """The inputs that share a storage, by storage: saved views of one tensor."""
    by_storage: dict[int, list[str]] = {}
    for name, example in zip(V.graph.graph_inputs, V.graph.example_inputs or (), strict=False):
        if isinstance(example, Tensor):
            by_storage.setdefault(example.untyped_storage()._cdata, []).append(name)
    return [names for names in by_storage.values() if len(names) > 1]


def _span(names: Sequence[str]) -> int:
    """Bytes from the first to the last element of inputs that share a storage: tiles of a tensor are all of it."""
    examples = dict(zip(V.graph.graph_inputs, V.graph.example_inputs or (), strict=False))
    starts, ends = [], []
    for name in names:
        example = examples[name]
        numbers = (example.storage_offset(), *example.shape, *example.stride())
        if not all(isinstance(number, int) for number in numbers) or not example.numel():
            return 0  # symbolic: the largest of them counts
        last = sum((size - 1) * step for size, step in zip(example.shape, example.stride(), strict=True))
        starts.append(example.storage_offset() * example.element_size())
        ends.append((example.storage_offset() + last + 1) * example.element_size())
    return _allocated(max(ends) - min(starts), examples[names[0]].device)


def _storage_bytes(name: str) -> int:
    graph = V.graph
    scheduled = graph.scheduler.name_to_buf.get(name)
    buffer: Any = scheduled.node if scheduled is not None else graph.graph_inputs[name]
    return _bytes_of(buffer)


def _bytes_of(buffer: Any) -> int:
    graph = V.graph
    size: int = elements_of(graph.get_allocation_storage_size(buffer)) * get_dtype_size(buffer.get_dtype())
    return _allocated(size, buffer.get_device())


def _allocated(size: int, device: torch.device | None) -> int:
    """Bytes that the allocator takes for `size`; in a graph of a GPU none for what lies in the memory of the host."""
    kind = "" if device is None else device.type
    if kind == "cpu" and len(V.graph.device_types - {"meta"}) > 1:
        return 0
    alignment = CUDA_ALIGNMENT if kind == "cuda" else 1
    return -(-size // alignment) * alignment


def _unread_results(nodes: Sequence[BaseSchedulerNode]) -> Iterator[tuple[str, Piece]]:
    """The results of kernels with several outputs that nobody takes out of the tuple: they live as long as it does."""
    taken = {name for node in nodes for name in node.get_buffer_names()}
    takers = {
        buffer.node.inputs[0].get_name(): op
        for op, node in enumerate(nodes)
        for buffer in node.get_outputs()
        if isinstance(buffer.node, ir.MultiOutput)
    }
    for op, node in enumerate(nodes):
        for result in getattr(node.node, "outputs", ()) if isinstance(node.node, ir.FallbackKernel) else ():
            if isinstance(result, ir.MultiOutput) and result.get_name() not in taken:
                readers = frozenset({takers.get(node.node.get_name(), op)}) - {op}
                yield result.get_name(), Piece(_bytes_of(result), op, readers)


def _siblings(nodes: Sequence[BaseSchedulerNode]) -> dict[str, set[int]]:
    """For each piece of a kernel with several outputs the ops that take pieces out of the tuple, which holds them."""
    takers: dict[str, set[int]] = {}
    tuple_of: dict[str, str] = {}
    for op, node in enumerate(nodes):
        for buffer in node.get_outputs():
            if isinstance(buffer.node, ir.MultiOutput):
                held_by = buffer.node.inputs[0].get_name()
                tuple_of[buffer.get_name()] = held_by
                takers.setdefault(held_by, set()).add(op)
    return {name: takers[held_by] for name, held_by in tuple_of.items()}


def _aliased(buffer: Any) -> Sequence[str]:
    """The names that an output of a node is a view of; behind a tuple, those of the kernel that returns it."""
    aliases: Sequence[str] = buffer.get_aliases()
    if isinstance(buffer.node, ir.MultiOutput) and aliases:
        aliases = buffer.node.inputs[0].get_inputs_that_alias_output()
    return aliases


def _layout(buffer: Any) -> Any:
    return getattr(buffer.node, "layout", None)

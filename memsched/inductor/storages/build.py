"""The memory model of a graph that Inductor is compiling: its storages, in the terms of `memsched.storage`.

Inductor's account of the nodes (`extract_graph`)  ──> names, views, concatenations, reuses, workspaces ──> model
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memsched.core.graph import Graph
from memsched.inductor.storages.buffers import concatenated, pieces_of, views
from memsched.inductor.storages.inplace import reuses_of
from memsched.inductor.storages.saved_copies import note_saved_copies
from memsched.inductor.storages.subgraphs import inner_bytes
from memsched.inductor.storages.workspaces import with_workspaces
from memsched.storage.model import AllocationModel
from memsched.storage.pieces import Piece

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["model_of", "unfused_model"]


def unfused_model(
    estimate: Graph, nodes: Sequence[BaseSchedulerNode], *, measure_scratch: bool = True
) -> AllocationModel:
    """The model of the nodes before they are fused: one storage per buffer, but for what is written over another.

    Parts of a concatenation are written straight into the whole, as they are after fusion.
    """
    pieces = {
        buffer.name: Piece(buffer.size, buffer.producer, frozenset(buffer.consumers), buffer.kept)
        for buffer in estimate.buffers
    }
    estimate = with_workspaces(estimate, nodes, inner_bytes(estimate, nodes, pieces), measured=measure_scratch)
    return AllocationModel(estimate, pieces, {}, concatenated(nodes, pieces), reuses_of(nodes))


def model_of(estimate: Graph, nodes: Sequence[BaseSchedulerNode], *, measure_scratch: bool = True) -> AllocationModel:
    """The model of the scheduler's `nodes`, op i being nodes[i]; to be made while `V.graph` is theirs.

    measure_scratch: as in `memsched.inductor.options`.
    """
    note_saved_copies()  # for the backward graph, if this is the forward
    pieces = pieces_of(estimate, nodes)
    same = views(nodes, pieces)
    apart = {name: piece for name, piece in pieces.items() if name not in same and name not in same.values()}
    estimate = with_workspaces(estimate, nodes, inner_bytes(estimate, nodes, apart), measured=measure_scratch)
    return AllocationModel(estimate, pieces, same, concatenated(nodes, pieces), reuses_of(nodes))

"""Blocks are checkpointed: what lies inside of a repeated module is recomputed in the backward, not saved.

A model is mostly one list of blocks.  What crosses from one block to the next is saved, what is inside is recomputed
when the backward comes to the block, as if the user had written `torch.utils.checkpoint` around each:

    block 0 ──> x1 ──> block 1 ──> x2 ──> block 2         saved: x1, x2
    └ inside: recomputed                                  alive at once: the inside of one group of blocks

`every` blocks in a row form one group.  The nodes of the traced joint graph say by the module that they were traced in
to which block they belong; the partitioner obeys tags (`recompute`, `ac_graph_id`; torch/_functorch/partitioners.py).

Claims: nodes that the user tagged keep their tags.  An operator that draws random numbers is saved, never drawn again.
"""

from __future__ import annotations

import math

from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from memsched.inductor.origins import module_of
from memsched.inductor.rewrites.save_random import is_random, source_of
from memsched.inductor.rewrites.traversal import depending_on, inputs_first, tangents_of

__all__ = ["blocks_of", "checkpoint_blocks"]

_FIRST_GROUP = 1_000_000
"""Number of the first group: above those that `torch.utils.checkpoint` counts in one process."""


def checkpoint_blocks(graph: fx.Graph, every: int = 1, share: float = 1.0) -> list[fx.Node]:
    """Tag the insides of the first `share` of the blocks, `every` to a group; the nodes that are to be recomputed.

    graph: forward and backward before they are cut apart.
    """
    blocks = blocks_of(graph)
    numbers = sorted(set(blocks.values()))
    chosen = set(numbers[: math.ceil(share * len(numbers))])
    group_of = {node: block // every for node, block in blocks.items() if block in chosen}
    if any("recompute" in node.meta for node in group_of):
        return []
    forward = set(_forward_operators(graph))
    for node, group in group_of.items():
        leaves = any(group_of.get(user) != group for user in node.users if user in forward)
        keep = leaves or is_random(node)
        node.meta["recompute"] = CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.MUST_RECOMPUTE
        node.meta["ac_graph_id"] = _FIRST_GROUP + group
    return [node for node in group_of if node.meta["recompute"] is CheckpointPolicy.MUST_RECOMPUTE]


def blocks_of(graph: fx.Graph) -> dict[fx.Node, int]:
    """The forward's operators inside of the largest list of blocks, with the number of their block; empty without one.

    A list of blocks is a module path with a number in it, as `layers.3.mlp`; of nested ones the outermost.
    """
    lists: dict[str, dict[fx.Node, int]] = {}
    for node in _forward_operators(graph):
        place = _place(module_of(source_of(node)))
        if place is not None:
            container, number = place
            lists.setdefault(container, {})[node] = number
    many = [found for found in lists.values() if len(set(found.values())) > 1]
    return max(many, key=len, default={})


def _place(path: str) -> tuple[str, int] | None:
    """The outermost numbered component of a module path: ("model.layers", 3) of "model.layers.3.mlp"."""
    parts = path.split(".")
    at = next((at for at, part in enumerate(parts) if part.isdigit()), None)
    return None if at is None else (".".join(parts[:at]), int(parts[at]))


def _forward_operators(graph: fx.Graph) -> list[fx.Node]:
    """The operators that do not depend on an incoming gradient."""
    backward = depending_on(graph, tangents_of(graph))
    return [node for node in inputs_first(graph) if node.op == "call_function" and node not in backward]

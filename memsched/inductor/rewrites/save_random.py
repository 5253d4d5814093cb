"""Random numbers are drawn once: what draws them is saved where the partitioner may choose what to recompute.

Stock's knapsack (`activation_memory_budget`) recomputes a dropout as any other operator, and the backward then drops
other elements than the forward did.  So every operator of the forward that draws is marked to be saved.

Claim: no random operator of the forward runs in the backward.
"""

from __future__ import annotations

import operator

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

__all__ = ["is_random", "save_random", "source_of"]


def save_random(graph: fx.Graph) -> list[fx.Node]:
    """Mark the random operators of a joint graph, and the results taken out of them; those that had no mark."""
    marked = [node for node in graph.nodes if "recompute" not in node.meta and is_random(node)]
    for node in marked:
        node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
    return marked


def source_of(node: fx.Node) -> fx.Node:
    """Behind a `getitem`, the operator whose result it takes."""
    while node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def is_random(node: fx.Node) -> bool:
    """Whether random numbers are drawn; an attention without dropout is tagged as if it did."""
    source = source_of(node)
    target = source.target
    if target is torch.ops.prims.inductor_random.default:
        return True
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    place = next((at for at, one in enumerate(target._schema.arguments) if one.name == "dropout_p"), None)
    if place is None:
        return True
    given = source.args[place] if place < len(source.args) else source.kwargs.get("dropout_p", 0.0)
    return bool(given != 0.0)

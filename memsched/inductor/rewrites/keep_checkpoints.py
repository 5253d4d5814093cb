"""Checkpoints stay checkpoints: the tensor between two of them is saved, whatever computed it.

Activation checkpointing saves the inputs of a block and recomputes what is inside.  Stock's min-cut partitioner keeps
that only where one block's output *is* the next one's input.  With any operator between, nothing is marked; then the
cut finds it cheapest to save nothing, and the backward recomputes every block from the first one on before its own
work starts, with the insides of all of them alive:

    block ──> add ──> block ──> add ──> block           eager saves: both results of `add`
                                                        stock saves: the input of the first block

The rule that would mark them, `cleanup_recompute_tags` in torch/_functorch/partitioners.py, holds for the default
partitioner only.  This one is narrower: it marks an input of a checkpoint that was computed, with no saved tensor
between, from the inside of another one.  A cast or a mask made from the batch stays what the cut makes of it.

Claim: only tensors are marked that eager saves too.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from memsched.inductor.rewrites.traversal import inputs_first

__all__ = ["keep_checkpoints"]

_RECOMPUTED = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)
_SAVED = (CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_SAVE)


def keep_checkpoints(graph: fx.Graph) -> list[fx.Node]:
    """Mark the tensors between checkpoints that the cut must save; returns them.

    graph: forward and backward before they are cut apart; the nodes of a checkpoint carry `recompute` and
        `ac_graph_id` (torch/utils/checkpoint.py).
    """
    from_checkpoint: dict[fx.Node, bool] = {}
    marked = []
    for node in inputs_first(graph):
        policy = node.meta.get("recompute")
        inherits = any(from_checkpoint[source] for source in node.all_input_nodes)
        from_checkpoint[node] = policy in _RECOMPUTED or (inherits and policy not in _SAVED)
        if policy is None and inherits and _enters_checkpoint(node):
            node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
            from_checkpoint[node] = False
            marked.append(node)
    return marked


def _enters_checkpoint(node: fx.Node) -> bool:
    """Whether `node` is a tensor from outside every checkpoint that one of them reads."""
    if "ac_graph_id" in node.meta or not isinstance(node.meta.get("val"), torch.Tensor):
        return False
    return any(user.meta.get("recompute") in _RECOMPUTED for user in node.users)

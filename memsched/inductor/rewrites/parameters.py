"""Which inputs of a joint graph are parameters or buffers of the model: they live longer than the step.

AOTAutograd tells the partitioner by their places ("static lifetime"); the places are noted at the nodes, for the rules.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

__all__ = ["note_parameters", "parameters_of"]

aten = torch.ops.aten

_PARAMETER = "memsched_parameter"
"""Where it is noted, in the `meta` of a placeholder, that the input outlives the step."""


def note_parameters(joint: fx.Graph, places: Iterable[int]) -> None:
    """Note the inputs at `places` of a joint graph as parameters."""
    inputs = [node for node in joint.nodes if node.op == "placeholder"]
    for at in places:
        if at < len(inputs):
            inputs[at].meta[_PARAMETER] = True


def parameters_of(joint: fx.Graph) -> list[fx.Node]:
    """The inputs that were noted as parameters, without those that are written: in the graph, or by its caller with a
    value that the graph returns (`InputMutationAOTOutput`)."""
    returned = [getattr(one, "mutated_input", None) for one in joint.output_node().meta.get("desc") or ()]
    noted = [node for node in joint.nodes if node.op == "placeholder" and _PARAMETER in node.meta]
    return [node for node in noted if not _is_written(node) and node.meta.get("desc", node) not in returned]


def _is_written(node: fx.Node) -> bool:
    return any(user.target is aten.copy_.default and user.args[0] is node for user in node.users)

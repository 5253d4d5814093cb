"""The gradients that a backward graph is given: autograd hands them over, and the graph's last reader frees them.

    loss, logits = model(x); loss.backward()     backward(saved..., tangents_1: of the loss, tangents_2: of the logits)

Those of outputs that the loss does not come from are zeros that autograd makes, as large as the output.  Between two
compiled graphs a tangent is what the later one returned.  Only somebody who calls `output.backward(gradient)` holds
on to his own; then the plan counts its bytes as freed, and they are not.

A tangent of one element, such as that of a loss, is left out, as other scalars between graphs are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memsched.inductor.sizes import is_tensor

if TYPE_CHECKING:
    from torch._inductor.graph import GraphLowering

__all__ = ["tangents"]

_PREFIX = "tangents_"
"""How AOTAutograd names them (torch/_functorch/partitioners.py, `_is_tangent`)."""


def tangents(graph: GraphLowering) -> frozenset[str]:
    """The inputs of a backward graph that are gradients of more than one element; none of another graph."""
    if not graph.is_backward:
        return frozenset()
    named = {name: value for name, value in graph.graph_inputs.items() if name.startswith(_PREFIX)}
    return frozenset(name for name, value in named.items() if is_tensor(value) and math.prod(value.get_size()) != 1)

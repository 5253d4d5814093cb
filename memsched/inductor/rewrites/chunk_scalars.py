"""Products with numbers take the form that Inductor's chunker knows.

    loss = 0.9 * a + 0.1 * b       in the backward: mul.Scalar(tangent, 0.9)       becomes mul.Tensor(tangent, 0.9)

Autograd writes the gradient of a loss that is scaled (label smoothing, the mean over a mask) with `mul.Scalar` and
`div.Scalar`, for which the chunker has no rule; it has one for their twins, which take a number as well.

Claim: the same numbers.
"""

from __future__ import annotations

import torch
from torch import fx

__all__ = ["chunk_scalars"]

_aten = torch.ops.aten
_TWIN = {_aten.mul.Scalar: _aten.mul.Tensor, _aten.div.Scalar: _aten.div.Tensor}


def chunk_scalars(graph: fx.Graph) -> list[fx.Node]:
    """Replace the operators; the nodes that were changed.  graph: forward and backward in one."""
    changed = [node for node in graph.nodes if node.op == "call_function" and node.target in _TWIN]
    for node in changed:
        node.target = _TWIN[node.target]
    return changed

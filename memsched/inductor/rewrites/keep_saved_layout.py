"""What is saved for the backward is the input itself, not a copy of it in another layout.

Inductor lays out what convolutions read with the channels last.  An input of the graph, weights or images, is copied
for that; and where it is saved for the backward too, the copy is what is saved, since an output that the user does not
see takes the layout that Inductor prefers (`GraphLowering.run_node`, torch/_inductor/graph.py):

    before:  w ──copy──> w' ──> convolution        w' lives until the convolution of the backward has run:
                         └────> saved              the weights of the whole net twice, at the peak
    after:   w ──copy──> w' ──> convolution        w' dies here
             └────────────────> saved              w is there anyway

So outputs that are inputs count as seen by the user: they keep their layout.

Claim: every output has the values that it had, and no buffer of the graph lives longer.  The backward copies a weight
for the one convolution that reads it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

__all__ = ["is_tensor_input", "save_inputs_as_they_are"]

_VISIBLE = "user_visible_output_idxs"
"""Where `compile_fx` notes the outputs whose layout is the user's; not there, all are."""


def save_inputs_as_they_are(graph: fx.Graph) -> list[fx.Node]:
    """Let the outputs of `graph` that are its inputs keep their layout; returns those that might have lost it."""
    output = graph.output_node()
    outputs = output.args[0]
    if _VISIBLE not in output.meta or not isinstance(outputs, (list, tuple)):
        return []
    seen = set(output.meta[_VISIBLE])
    saved = {at: one for at, one in enumerate(outputs) if is_tensor_input(one)}
    output.meta[_VISIBLE] = sorted(seen | set(saved))
    return [node for at, node in saved.items() if at not in seen]


def is_tensor_input(value: Any) -> bool:
    """Whether an output of a traced graph is one of its inputs, and a tensor; a size may be an input, too."""
    return isinstance(value, fx.Node) and value.op == "placeholder" and isinstance(value.meta.get("val"), Tensor)

"""What is saved for the backward is the input itself, not a copy of it in another layout.

Inductor lays out what convolutions read with the channels last.  An input of the graph, weights or images, is copied
for that; and where it is saved for the backward too, the copy is what is saved, since an output that the user does not
see takes the layout that Inductor prefers (`GraphLowering.run_node`, torch/_inductor/graph.py):

    before:  w ──copy──> w' ──> convolution        w' lives until the convolution of the backward has run:
                         └────> saved              the weights of the whole net twice, at the peak
    after:   w ──copy──> w' ──> convolution        w' dies here
             └────────────────> saved              w is there anyway

So outputs that are inputs count as seen by the user: they keep their layout.

Not always: what a backward computes again of an image takes the layout of what was saved, and is copied for its
convolutions in turn.  If that is larger, a concatenation, and the image is not read again once gradients are there, a
saved copy of the image costs less, since it dies early:

    image ──> cat(image, image * 2) ──copy──> convolution        one copy of twice the image, where the peak is

Such an input is saved as stock does.  Only the cut knows both halves, and notes it (`note_layout_readers`).

Claim: every output has the values that it had, and no buffer of the graph lives longer.  The backward copies a weight
for the one convolution that reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["is_tensor_input", "note_layout_readers", "save_inputs_as_they_are"]

aten = torch.ops.aten

_VISIBLE = "user_visible_output_idxs"
"""Where `compile_fx` notes the outputs whose layout is the user's; not there, all are."""

_PASSED_ON = "memsched_layout_passed_on"
"""In the `meta` of an input of the forward: the backward computes something larger of it, which takes its layout."""

_GRADIENT = aten.convolution_backward.default
_CONVOLUTIONS = (aten.convolution.default, _GRADIENT)


def note_layout_readers(forward: fx.Graph, backward: fx.Graph) -> None:
    """Note at the inputs of `forward` whether `backward` is better off with their copies in another layout.

    The partitioner gives what is saved the same name in both (torch/_functorch/partitioners.py).
    """
    late = _behind(backward.find_nodes(op="call_function", target=_GRADIENT))
    better = {
        node.name
        for node in backward.find_nodes(op="placeholder")
        if _elements(node) and _grows_into_convolution(node) and not late.intersection(node.users)
    }
    for node in forward.find_nodes(op="placeholder"):
        if node.name in better:
            node.meta[_PASSED_ON] = True


def _behind(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """All that is computed of `nodes`."""
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        new = [user for user in pending.pop().users if user not in found]
        found.update(new)
        pending += new
    return found


def _grows_into_convolution(node: fx.Node) -> bool:
    """Whether a convolution reads something larger, computed of `node` by operators that keep or add elements."""
    size = _elements(node)
    seen, pending = {node}, [node]
    while pending:
        one = pending.pop()
        if _elements(one) > size and any(user.target in _CONVOLUTIONS for user in one.users):
            return True
        new = [user for user in one.users if user not in seen and user.target not in _CONVOLUTIONS]
        new = [user for user in new if _elements(user) >= size]
        seen.update(new)
        pending += new
    return False


def _elements(node: fx.Node) -> int:
    """How many; 0 where that is not a number: to ask a symbol for its value would fix it."""
    value = node.meta.get("val")
    count = value.numel() if isinstance(value, Tensor) else 0
    return count if type(count) is int else 0


def save_inputs_as_they_are(graph: fx.Graph) -> list[fx.Node]:
    """Let the outputs of `graph` that are its inputs keep their layout; returns those that might have lost it."""
    output = graph.output_node()
    outputs = output.args[0]
    if _VISIBLE not in output.meta or not isinstance(outputs, (list, tuple)):
        return []
    seen = set(output.meta[_VISIBLE])
    saved = {at: one for at, one in enumerate(outputs) if is_tensor_input(one) and not one.meta.get(_PASSED_ON)}
    output.meta[_VISIBLE] = sorted(seen | set(saved))
    return [node for at, node in saved.items() if at not in seen]


def is_tensor_input(value: Any) -> bool:
    """Whether an output of a traced graph is one of its inputs, and a tensor; a size may be an input, too."""
    return isinstance(value, fx.Node) and value.op == "placeholder" and isinstance(value.meta.get("val"), Tensor)

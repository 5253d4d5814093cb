"""How often the chunks are gone through, and what each pass computes.

A result of a pass that another part of the region depends on, through operators outside, makes that part wait for the
next pass:

    pass 0:  logits ──> log-probabilities of the targets         outside:  summed per sequence, compared, sigmoid
    pass 1:  logits, again ──> gradients <── what each sequence counts ──┘

The backward begins with the tangent, the gradient of the loss, which is not there in the forward: that makes a second
pass, too.  But all gradients are linear in it.  Where one pass would do otherwise, they are computed with 1 in its
place, in the forward, and multiplied by the tangent in the backward (as Inductor's own chunker does, and Liger's loss).
Not in float16, where a gradient that is not scaled yet may be too small to be told from zero.

Claim: `linear_in` only says yes where every step is linear.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memsched.inductor.rewrites.chunk_loss.region import Region
from memsched.inductor.rewrites.traversal import depending_on, tangents_of

__all__ = ["Passes", "linear_in", "passes_of"]

_aten = torch.ops.aten
_prims = torch.ops.prims


@dataclass(frozen=True)
class Passes:
    """number: for each node of the region the pass that computes it, from 0.

    tangent: the gradient of the loss that is 1 in the region, and multiplies its results afterwards; None for none.
    scaled: the nodes whose results are.
    """

    number: dict[fx.Node, int]
    tangent: fx.Node | None = None
    scaled: frozenset[fx.Node] = frozenset()

    @property
    def count(self) -> int:
        """How many passes there are."""
        return max(self.number.values()) + 1


def passes_of(graph: fx.Graph, region: Region) -> Passes:
    """The passes of `region`, as few as may be."""
    tangents = tangents_of(graph)
    behind = {tangent: depending_on(graph, [tangent]) - {tangent} for tangent in tangents}
    reaching = [tangent for tangent in tangents if any(node in region.pieces for node in behind[tangent])]
    if len(reaching) == 1 and _may_be_one(region, reaching[0]):
        number = _numbers(graph, region, frozenset())
        on_the_way = behind[reaching[0]] & _before(graph, region)
        if not any(number.values()) and linear_in(reaching[0], graph, on_the_way):
            return Passes(number, reaching[0], frozenset(behind[reaching[0]]))
    return Passes(_numbers(graph, region, frozenset(reaching)))


def _may_be_one(region: Region, tangent: fx.Node) -> bool:
    """Whether the tangent is a number, and no gradient is lost where it does not scale."""
    types = {node.meta["val"].dtype for node in region.pieces}
    return tangent.meta["val"].dim() == 0 and torch.float16 not in types


def _before(graph: fx.Graph, region: Region) -> set[fx.Node]:
    """The region, and all that it depends on."""
    found = set(region.pieces)
    for node in reversed(graph.nodes):
        if node in found:
            found.update(node.all_input_nodes)
    return found


def _numbers(graph: fx.Graph, region: Region, later: Collection[fx.Node]) -> dict[fx.Node, int]:
    """For each node of the region the least pass by which all that it reads is known.

    later: inputs that are known when pass 0 has ended.
    """
    number: dict[fx.Node, int] = {}
    for node in graph.nodes:
        waits = [int(node in later)]
        for one in node.all_input_nodes:
            piece = region.pieces.get(one)
            is_result = piece is not None and (piece.is_sum or node not in region.pieces)
            waits.append(number[one] + is_result)
        number[node] = max(waits)
    return {node: number[node] for node in region.pieces}


# ---- linear


def linear_in(tangent: fx.Node, graph: fx.Graph, nodes: Collection[fx.Node]) -> bool:
    """Whether each of `nodes`, all of which depend on `tangent`, is linear in it, given that those before are."""
    depend = {tangent, *nodes}
    return all(_is_linear_step(node, depend) for node in graph.nodes if node in depend and node is not tangent)


def _is_linear_step(node: fx.Node, depend: Collection[fx.Node]) -> bool:
    def varies(value: Any) -> bool:
        return isinstance(value, fx.Node) and value in depend

    def varies_or_zero(value: Any) -> bool:
        return varies(value) or _is_zero(value)

    args, target = node.args, node.target
    others = [one for one in node.all_input_nodes if one in depend and one is not args[0]]
    if target in _OF_THE_FIRST:
        return varies(args[0]) and not others
    if target in _IN_EACH:
        return varies(args[0]) != varies(args[1])
    if target in _FUSED_MULTIPLY_ADD:
        return varies(args[0]) != varies(args[1]) and varies_or_zero(args[2])
    if target in _QUOTIENTS:
        return varies(args[0]) and not varies(args[1])
    if target in _ALL_OR_ZERO:
        return all(varies_or_zero(args[at]) for at in _ALL_OR_ZERO[target]) and not any(
            varies(value) for at, value in enumerate(args) if at not in _ALL_OR_ZERO[target]
        )
    return False


def _is_zero(value: Any) -> bool:
    """Whether it is 0, as a number or as a tensor of zeros."""
    if isinstance(value, fx.Node):
        number = {_aten.full.default: 1, _aten.scalar_tensor.default: 0}.get(value.target)  # type: ignore[arg-type]
        return number is not None and _is_zero(value.args[number])
    return isinstance(value, (int, float)) and value == 0


_OF_THE_FIRST = frozenset(
    {
        _aten.alias.default,
        _aten.clone.default,
        _aten.detach.default,
        _aten.expand.default,
        _aten.gather.default,
        _aten.mean.default,
        _aten.mean.dim,
        _aten.neg.default,
        _aten.permute.default,
        _aten.reshape.default,
        _aten.select.int,
        _aten.slice.Tensor,
        _aten.squeeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.sum.default,
        _aten.sum.dim_IntList,
        _aten.t.default,
        _aten.transpose.int,
        _aten.unsqueeze.default,
        _aten.view.default,
        _aten._unsafe_view.default,
        _prims.convert_element_type.default,
    }
)
_FUSED_MULTIPLY_ADD = (_prims.fma.default,) if hasattr(_prims, "fma") else ()
_IN_EACH = frozenset({_aten.mul.Tensor, _aten.mul.Scalar, _aten.mm.default})
_QUOTIENTS = frozenset({_aten.div.Tensor, _aten.div.Scalar})
_ALL_OR_ZERO = {
    _aten.add.Tensor: (0, 1),
    _aten.sub.Tensor: (0, 1),
    _aten.where.self: (1, 2),
    _aten.scatter.src: (0, 3),
    _aten.scatter_add.default: (0, 3),
    _aten.slice_scatter.default: (0, 1),
}

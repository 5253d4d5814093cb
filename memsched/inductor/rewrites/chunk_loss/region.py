"""The part of a graph that is computed by rows of the logits: what the loss and its gradient need of them.

    x ──> head ──> logits ──> softmax ──> loss of each token ──> loss
                     └──────> its gradient ──┬──> gradient of x, row by row
                              tangent ───────┘──> gradient of the head's weight, a sum over rows

It begins at a large product of the forward, and goes on through every operator that is computed by rows, up to what
is no longer as large as the logits.  In between lie *large* tensors, of which no whole may exist; its outputs are
small, row by row, or sums.  What is read besides (targets, masks, the tangent) comes from outside, and is cut into rows
there; large tensors that are made of such (zeros to scatter into, a number broadcast to all words) are made in the
chunk.

A *pass* goes through all chunks once.  One pass does where nothing that it reads depends on a result of the same pass:
each token's loss counts by itself.  A loss that compares sequences (DPO) needs two: their log-probabilities first, then
the gradients, for which the logits of each chunk are computed again.

Claim: every result of the region is computed by exactly one pass, from what is known before that pass begins.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import fx

from memsched.inductor.origins import source_of
from memsched.inductor.rewrites.chunk_loss.operators import piece_for, piece_reading
from memsched.inductor.rewrites.chunk_loss.products import is_product
from memsched.inductor.rewrites.chunk_loss.rows import Dims, Operand, Piece, shape_of
from memsched.inductor.rewrites.nodes import is_static
from memsched.inductor.rewrites.traversal import depending_on, tangents_of

__all__ = ["NotChunkedError", "Region", "is_loss", "products_of", "region_of"]

_LARGE = 0.5
"""Of the logits' elements: as many make a tensor large."""


class NotChunkedError(ValueError):
    """The logits are needed whole; the message says what for."""


@dataclass
class Region:
    """What is computed by rows.

    head: the product that gives the logits.
    pieces: how each node is computed, in the order of the graph.
    made: how large tensors from outside are made, by node and the rows that they are to have.
    """

    head: fx.Node
    pieces: dict[fx.Node, Piece] = field(default_factory=dict)
    made: dict[tuple[fx.Node, Dims], Piece] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows the logits have."""
        return shape_of(self.head)[-2]

    def is_large(self, node: fx.Node) -> bool:
        """Whether a node's result is about as large as the logits."""
        return _elements(node) >= _LARGE * _elements(self.head)

    def outputs(self) -> list[fx.Node]:
        """What is read outside."""
        return [node for node in self.pieces if any(user not in self.pieces for user in node.users)]

    def source(self, operand: Operand) -> Piece | None:
        """How an operand is computed in a chunk; None for what comes from outside, as sums over all chunks do."""
        own = self.pieces.get(operand.node)
        return self.made.get((operand.node, operand.rows)) if own is None or own.is_sum else own


def products_of(graph: fx.Graph) -> list[fx.Node]:
    """The products of the forward whose sizes are known, the largest first: what may give logits."""
    backward = depending_on(graph, tangents_of(graph))
    products = [node for node in graph.nodes if is_product(node) and is_static(node) and node not in backward]
    return sorted(products, key=_elements, reverse=True)


def region_of(graph: fx.Graph, head: fx.Node) -> Region:
    """The region that begins at `head`.

    graph: forward and backward in one, or a forward alone.

    Raises:
        NotChunkedError: something reads a large tensor whole.
    """
    region, head_piece = Region(head), piece_for(head, (-2,))
    if head_piece is None:
        raise NotChunkedError(f"{_said(head)} is not by rows")
    region.pieces[head] = head_piece
    _spread(graph, region)
    _trim(region)
    for node in region.outputs():
        if region.is_large(node) and not _ends(region, node):
            reader = next(user for user in node.users if user not in region.pieces)
            raise NotChunkedError(f"{_said(reader)} reads {_said(node)} whole")
    return region


def is_loss(graph: fx.Graph, region: Region) -> bool:
    """Whether nothing of the forward goes on from the region row by row, as it does from the inside of a block."""
    backward = depending_on(graph, tangents_of(graph))
    results = (node for node in region.outputs() if node not in backward)
    return all(region.pieces[node].is_sum or not is_product(node) for node in results)


def _elements(node: fx.Node) -> int:
    return int(node.meta["val"].numel()) if is_static(node) else 0


def _said(node: fx.Node) -> str:
    """A node as its operator, and its line where it is known."""
    line = source_of(node)
    return f"{node.target} ({line})" if line else str(node.target)


# ---- growing


def _spread(graph: fx.Graph, region: Region) -> None:
    """Take in all that is computed by rows from the logits on; not beyond a product of them."""
    reached = {region.head}
    for node in graph.nodes:
        sources = [one for one in node.all_input_nodes if one in reached]
        if not sources:
            continue
        reached.add(node)
        by_rows = [one for one in sources if one in region.pieces and not _ends(region, one)]
        if node.op == "output" or not by_rows:
            continue
        piece = piece_reading(node, by_rows[0], region.pieces[by_rows[0]].rows)
        if piece is not None and _agrees(region, piece):
            region.pieces[node] = piece
            for operand in piece.operands:
                _make(region, operand, reached)


def _ends(region: Region, node: fx.Node) -> bool:
    piece = region.pieces[node]
    return piece.is_sum or (is_product(node) and node is not region.head)


def _agrees(region: Region, piece: Piece) -> bool:
    """Whether what the piece reads of the region has the rows that it asks for."""
    own = ((region.pieces.get(operand.node), operand.rows) for operand in piece.operands)
    return all(one is None or one.is_sum or one.rows == rows for one, rows in own)


def _make(region: Region, operand: Operand, reached: Collection[fx.Node]) -> None:
    """Take in the pieces that make a large tensor from outside, and what is made of one after the logits are known.

    Other tensors are cut into rows outside.  What is made of a constant without the logits is no tensor there, but part
    of the kernel that reads it.
    """
    node, key = operand.node, (operand.node, operand.rows)
    is_known = node in region.pieces or key in region.made or not operand.rows
    is_made = region.is_large(node) or (node in reached and any(map(region.is_large, node.all_input_nodes)))
    if is_known or not is_made or node.op != "call_function" or not _has_rows(node, operand):
        return
    piece = piece_for(node, operand.rows)
    if piece is not None and _agrees(region, piece):
        region.made[key] = piece
        for one in piece.operands:
            _make(region, one, reached)


def _has_rows(node: fx.Node, operand: Operand) -> bool:
    """Whether a node has all the rows by itself, and is not broadcast to them."""
    shape = shape_of(node)
    return len(shape) >= -min(operand.rows) and tuple(shape[row] for row in operand.rows) == operand.sizes


# ---- trimming


def _trim(region: Region) -> None:
    """Keep what is large, what leads to something large, and what reads something large."""
    leads: set[fx.Node] = set()
    for node in reversed(region.pieces):
        leads_on = any(user in leads for user in node.users if user in region.pieces)
        if leads_on or (region.is_large(node) and not _ends(region, node)):
            leads.add(node)
    for node in list(region.pieces):
        reads = any(one in leads and region.is_large(one) for one in node.all_input_nodes)
        if node not in leads and not reads:
            del region.pieces[node]

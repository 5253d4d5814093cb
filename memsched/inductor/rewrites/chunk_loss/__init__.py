"""The loss in chunks of rows, so that the logits are never whole, and blocks in chunks of tokens: two rules.

    logits of 1,024 tokens and 8,192 words, float32: 32 MiB, with softmax and gradient 64 or more at once
    in 16 chunks: 2 MiB each, 4 or 6 at once

`rows` says what rows are, `operators` how each operator is computed by rows, `region` what of a graph is, `passes` how
often the chunks must be gone through, and `build` replaces the region by calls of one subgraph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import fx

from memsched.inductor.rewrites.chunk_loss.build import PART, replace_by_chunks
from memsched.inductor.rewrites.chunk_loss.passes import passes_of
from memsched.inductor.rewrites.chunk_loss.region import NotChunkedError, Region, is_loss, products_of, region_of
from memsched.inductor.rewrites.chunk_loss.rows import shape_of

__all__ = ["chunk_loss", "chunk_tokens"]

log = logging.getLogger("memsched")

_MOST_PASSES = 3
_SMALLEST = 16
"""Of the largest product's elements a sixteenth: what is smaller than that is no lever."""
_GIVEN = 1.5
"""What a block gives by rows, forward and backward, over its inside: a gated one of 2.7 widths gives back three."""


def chunk_loss(graph: fx.Graph, chunks: int) -> list[fx.Node]:
    """Compute the loss and its gradient in so many chunks of rows; the calls of chunks, none where it stays whole.

    A second head, or a reference model beside, gives logits with as many words: they come in chunks, too.

    graph: forward and backward in one, or a forward alone, after decomposition.
    """
    calls: list[fx.Node] = []
    words = 0
    for head in _candidates(graph):
        if words in (0, shape_of(head)[-1]) and (found := _chunked(graph, head, chunks, is_loss)):
            calls += found
            words = shape_of(head)[-1]
    return calls


def chunk_tokens(graph: fx.Graph, chunks: int) -> list[fx.Node]:
    """Compute the wide inside of every block in so many chunks of tokens; the calls of chunks.

        x ──> up [tokens, 4 width] ──> gelu ──> down ──> + x        a chunk of tokens at a time, forward and backward

    The inside is computed again in the backward, and never saved.  What mixes tokens (attention) stays whole.

    graph: as for `chunk_loss`.
    """
    calls: list[fx.Node] = []
    for head in _candidates(graph):
        if head in set(graph.nodes):  # not if an earlier region had it inside, as a gate has the product beside it
            calls += _chunked(graph, head, chunks, _narrows)
    return calls


def _candidates(graph: fx.Graph) -> list[fx.Node]:
    owner = graph.owning_module
    if owner is None or owner.meta.get(PART):
        return []
    products = products_of(graph)
    return [node for node in products if _elements(node) * _SMALLEST >= _elements(products[0])]


def _elements(node: fx.Node) -> int:
    return int(node.meta["val"].numel())


def _narrows(graph: fx.Graph, region: Region) -> bool:
    """Whether it is a block that gives little beside its inside."""
    given = sum(_elements(node) for node in region.outputs() if not region.pieces[node].is_sum)
    return not is_loss(graph, region) and given <= _GIVEN * _elements(region.head)


def _chunked(
    graph: fx.Graph, head: fx.Node, chunks: int, is_wanted: Callable[[fx.Graph, Region], bool]
) -> list[fx.Node]:
    """The calls of chunks of the region of `head`; none where that is not wanted, or is needed whole."""
    try:
        region = region_of(graph, head)
        if not is_wanted(graph, region):
            return []
        passes = passes_of(graph, region)
        if region.rows < chunks:
            raise NotChunkedError(f"{region.rows} rows are fewer than {chunks} chunks")
        if passes.count > _MOST_PASSES:
            raise NotChunkedError(f"{passes.count} passes would be needed")
    except NotChunkedError as reason:
        log.debug("memsched: %s stays whole: %s", head.name, reason)
        return []
    return replace_by_chunks(graph, region, passes, chunks)

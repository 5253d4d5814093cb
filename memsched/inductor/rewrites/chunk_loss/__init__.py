"""The loss in chunks of rows, so that the logits are never whole: one pass over the joint graph.

    logits of 1,024 tokens and 8,192 words, float32: 32 MiB, with softmax and gradient 64 or more at once
    in 16 chunks: 2 MiB each, 4 or 6 at once

`rows` says what rows are, `operators` how each operator is computed by rows, `region` what of a graph is, `passes` how
often the chunks must be gone through, and `build` replaces the region by calls of one subgraph.
"""

from __future__ import annotations

import logging

from torch import fx

from memsched.inductor.rewrites.chunk_loss.build import PART, replace_by_chunks
from memsched.inductor.rewrites.chunk_loss.passes import passes_of
from memsched.inductor.rewrites.chunk_loss.region import NotChunkedError, is_loss, products_of, region_of
from memsched.inductor.rewrites.chunk_loss.rows import shape_of

__all__ = ["chunk_loss"]

log = logging.getLogger("memsched")

_MOST_PASSES = 3
_CANDIDATES = 8
"""The largest products that are looked at: a block may have one that is larger than the logits."""


def chunk_loss(graph: fx.Graph, chunks: int) -> list[fx.Node]:
    """Compute the loss and its gradient in so many chunks of rows; the calls of chunks, none where it stays whole.

    A second head, or a reference model beside, gives logits with as many words: they come in chunks, too.

    graph: forward and backward in one, or a forward alone, after decomposition.
    """
    owner = graph.owning_module
    if owner is None or owner.meta.get(PART):
        return []
    calls: list[fx.Node] = []
    words = 0
    for head in products_of(graph)[:_CANDIDATES]:
        if words in (0, shape_of(head)[-1]) and (found := _chunked(graph, head, chunks)):
            calls += found
            words = shape_of(head)[-1]
    return calls


def _chunked(graph: fx.Graph, head: fx.Node, chunks: int) -> list[fx.Node]:
    """The calls of chunks of the region of `head`; none where that is no loss, or is needed whole."""
    try:
        region = region_of(graph, head)
        passes = passes_of(graph, region)
        if region.rows < chunks:
            raise NotChunkedError(f"{region.rows} rows are fewer than {chunks} chunks")
        if passes.count > _MOST_PASSES:
            raise NotChunkedError(f"{passes.count} passes would be needed")
    except NotChunkedError as reason:
        log.debug("memsched: %s stays whole: %s", head.name, reason)
        return []
    if not is_loss(graph, region):
        return []
    return replace_by_chunks(graph, region, passes, chunks)

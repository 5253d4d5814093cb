"""The loss is chunked from the largest product of the forward on: its logits.

Inductor's chunker begins where a product's output is largest *beside its inputs*.  An adapter of low rank beats every
head at that (512 x 4 times 4 x 128 gives 26 times what it reads, a head of 8,192 words 4 times), and nothing follows
from it that could be chunked:

    x ──> A ──> B ──> ... ──> head ──> cross entropy
               26             4                            begin at the head: its output is 64 times as large as B's

Claim: only Inductor's own threshold of bytes is set, for this graph; no node changes.
"""

from __future__ import annotations

import torch
from torch import fx
from torch._inductor import config

from memsched.inductor.rewrites.nodes import bytes_of, is_static

__all__ = ["chunk_largest"]

_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def chunk_largest(graph: fx.Graph) -> list[fx.Node]:
    """Let Inductor's chunker see only the largest product before the first gradient; returns no node.

    graph: forward and backward in one, before the chunker runs, under a patch of its settings.
    """
    sizes = [0]
    for node in graph.nodes:
        if any(one.op == "placeholder" and "tangent" in one.name for one in node.all_input_nodes):
            break
        if node.target in _PRODUCTS and is_static(node):
            sizes.append(bytes_of(node))
    config.auto_chunker.output_size_threshold = max(sizes) - 1
    return []

"""The layers that the models share: attention and feed-forward.

Attention is written out (scores, softmax, product) rather than fused, so that CPU and GPU compile the same graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Block", "CrossBlock", "FeedForward"]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, width) to (batch, heads, tokens, width of a head)."""
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, heads, width // heads).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Softmax attention over (batch, heads, tokens, width of a head)."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(mask, float("-inf"))
    return scores.softmax(-1) @ value


class SelfAttention(nn.Module):
    """Multi-head attention of `x` to itself, with one projection for query, key and value."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (split_heads(t, self.heads) for t in self.project(x).chunk(3, -1))
        return self.out(attend(query, key, value, self.causal).transpose(1, 2).reshape(x.shape))


class CrossAttention(nn.Module):
    """Multi-head attention of `x` to a context."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        query = split_heads(self.query(x), self.heads)
        key, value = (split_heads(t, self.heads) for t in self.key_value(context).chunk(2, -1))
        return self.out(attend(query, key, value, causal=False).transpose(1, 2).reshape(x.shape))


class FeedForward(nn.Sequential):
    """Linear, GELU, Linear with four times the width in between."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class Block(nn.Module):
    """A pre-norm transformer block around any feed-forward layer."""

    def __init__(self, width: int, heads: int, feed_forward: nn.Module, causal: bool = False) -> None:
        super().__init__()
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal)
        self.feed_forward = feed_forward

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.feed_forward(self.norm_forward(x))


class CrossBlock(nn.Module):
    """Self-attention, cross-attention when there is a context, feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.self_attention = SelfAttention(width, heads)
        self.cross_attention = CrossAttention(width, heads)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x + self.self_attention(self.norms[0](x))
        if context is not None:
            x = x + self.cross_attention(self.norms[1](x), context)
        return x + self.feed_forward(self.norms[2](x))

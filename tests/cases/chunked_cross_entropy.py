"""Chunks of head and loss, each checkpointed, in one graph (shape of torchtune#1390, torchtitan#1033 and #3646)."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self, w=64, vocab=2048, chunks=8, ckpt=True):
        super().__init__()
        self.up, self.down = nn.Linear(w, 4 * w), nn.Linear(4 * w, w)
        self.head = nn.Linear(w, vocab, bias=False)
        self.chunks, self.ckpt = chunks, ckpt

    def piece(self, h, y):
        return F.cross_entropy(self.head(h).float(), y, reduction="sum")

    def forward(self, x, y):
        h = x + self.down(F.gelu(self.up(x)))
        total = 0.0
        for hc, yc in zip(h.chunk(self.chunks), y.chunk(self.chunks), strict=True):
            total = total + (checkpoint(self.piece, hc, yc, use_reentrant=False) if self.ckpt else self.piece(hc, yc))
        return total / y.numel()


def step(ckpt=True, chunks=8):
    torch.manual_seed(0)
    return Net(ckpt=ckpt, chunks=chunks), (torch.randn(2048, 64), torch.randint(2048, (2048,)))

"""One block and AdamW: train_step against a compiled model with a compiled optimizer."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, w=128, layers=1):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(w), nn.Linear(w, 4 * w), nn.GELU(), nn.Linear(4 * w, w)) for _ in range(layers)
        )

    def forward(self, x):
        for b in self.blocks:
            x = x + b(x)
        return x.square().mean()


def step():
    torch.manual_seed(0)
    m = Net()
    return m, (torch.randn(128, 128),), torch.optim.AdamW(m.parameters(), lr=1e-3)

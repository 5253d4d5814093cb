"""Compile a model with memsched, train two steps, and print what was planned.   python examples/compile.py"""

from __future__ import annotations

import torch
from torch import nn

import memsched


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    compiled = torch.compile(model, backend="memsched")
    inputs, targets = torch.randn(16, 32), torch.randn(16, 1)
    for _ in range(2):
        nn.functional.mse_loss(compiled(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for report in memsched.reports():
        print(report)


if __name__ == "__main__":
    main()

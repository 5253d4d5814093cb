"""Forward, backward and update as one plan: gradients die as they are born.   python examples/train_step.py"""

from __future__ import annotations

import torch
from torch import nn

import memsched


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step = memsched.train_step(model, optimizer, loss_fn=nn.functional.mse_loss)
    inputs, targets = torch.randn(16, 32), torch.randn(16, 1)
    losses = [float(step(inputs, targets)) for _ in range(5)]
    assert losses[-1] < losses[0]
    print(step.report)


if __name__ == "__main__":
    main()

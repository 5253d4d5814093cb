"""memsched under accelerate, whose list of backends is closed: as options of Inductor.

python examples/accelerate_loop.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import TorchDynamoPlugin
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import memsched


def main() -> None:
    torch.manual_seed(0)
    plugin = TorchDynamoPlugin(backend="inductor", options=memsched.options(time_limit_s=1))
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), dynamo_plugin=plugin)
    model = nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(TensorDataset(torch.randn(64, 32), torch.randn(64, 1)), batch_size=16)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for inputs, targets in loader:
        accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
        optimizer.step()
        optimizer.zero_grad()
    assert [report.kind for report in memsched.reports()] == ["forward", "backward"]
    for report in memsched.reports():
        print(report)


if __name__ == "__main__":
    main()

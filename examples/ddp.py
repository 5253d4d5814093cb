"""Two processes with DistributedDataParallel: the same plan on both, the same gradients.   python examples/ddp.py

First a compiled model, then `train_step`, which averages gradients between the backward and their updates.
"""

from __future__ import annotations

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import memsched

PROCESSES = 2


class Net(nn.Module):
    """A module of one's own: Dynamo does not compile what DistributedDataParallel finds in torch.nn itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).square().mean()


def work(rank: int, port: int) -> None:
    """One process: train two steps each way, and compare plans and parameters with the other's."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)
    model = Net()
    compiled = torch.compile(DistributedDataParallel(model), backend="memsched")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)  # each process has data of its own
    for _ in range(2):
        compiled(torch.randn(16, 32, generator=generator)).backward()
        optimizer.step()
        optimizer.zero_grad()
    # A model in DistributedDataParallel does, too; without it no buckets are held.
    options = {"process_group": dist.group.WORLD, "bucket_size": "16KiB"}
    step = memsched.train_step(model, optimizer, options=options)
    for _ in range(2):
        step(torch.randn(16, 32, generator=generator))
    mine = {
        "plans": [(report.name, report.peak, report.status) for report in memsched.reports()],
        "parameters": [parameter.tolist() for parameter in model.parameters()],
    }
    everyone: list[object] = [None] * PROCESSES
    dist.all_gather_object(everyone, mine)
    assert len(memsched.reports()) == 3 and all(other == mine for other in everyone)
    if rank == 0:
        for report in memsched.reports():
            print(report)
        print(step.report)
    dist.destroy_process_group()


def main() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port,), nprocs=PROCESSES)


if __name__ == "__main__":
    main()

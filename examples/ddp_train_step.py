"""Two processes, each with a whole training step in one plan.   python examples/ddp_train_step.py"""

from __future__ import annotations

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import memsched

PROCESSES = 2


class Net(nn.Module):
    """Weights are larger than activations: gradients are what a step needs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(128, 128), nn.GELU()) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).square().mean()


def work(rank: int, port: int) -> None:
    """One process: train three steps on data of its own, and compare parameters with the other's."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    # A model in DistributedDataParallel does, too; without it no buckets are held.
    options = {"process_group": dist.group.WORLD, "bucket_size": "128KiB"}
    step = memsched.train_step(model, optimizer, options=options)
    data = torch.Generator().manual_seed(rank)
    for _ in range(3):
        step(torch.randn(16, 128, generator=data))
    everyone: list[object] = [None] * PROCESSES
    mine = [parameter.tolist() for parameter in model.parameters()]
    dist.all_gather_object(everyone, mine)
    assert all(other == mine for other in everyone)
    if rank == 0:
        print(step.report)
    dist.destroy_process_group()


def main() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port,), nprocs=PROCESSES)


if __name__ == "__main__":
    main()

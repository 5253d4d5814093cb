"""Two processes that train copies of a model, for test_replicas: `train_step` beside DistributedDataParallel."""

from __future__ import annotations

import copy
import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import memsched
from memsched.inductor.bytes.measure import trace_memory

PROCESSES, STEPS = 2, 4


class Net(nn.Module):
    """A classifier with the statistics of a BatchNorm, which the first process shares."""

    def __init__(self, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(layers)])
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layers(x)).sigmoid().square().mean()


@dataclass
class Row:
    """What one process has seen; losses and parameters of the step and of DistributedDataParallel."""

    losses: list[tuple[float, float]]
    difference: float
    buffers: float
    parameters: list[float]
    plans: list[tuple[str, int]]
    peaks: tuple[int, int]


def work(rank: int, port: int, options: dict[str, Any], micro_batches: int, wrapped: bool, into: Any) -> None:
    """Train both ways on the same data; the rows of all processes go to `into`.

    wrapped: whether the step is given a model in DistributedDataParallel; else it is given the processes, and a model
    that begins otherwise in each of them.
    options: of the step, and "fail": leave it to stock.
    """
    fail = options.pop("fail", False)
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0 if wrapped else rank)
    model = Net()
    given = DistributedDataParallel(model) if wrapped else model
    if not wrapped:
        options = {**options, "process_group": dist.group.WORLD}
    step = memsched.train_step(given, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), options=options)
    if fail:
        step._leave_to_stock(RuntimeError("as the test wants it"))
    other = copy.deepcopy(model)
    reference, optimizer = DistributedDataParallel(other), torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    data = torch.Generator().manual_seed(rank)  # each process has data of its own
    batches = [torch.randn(16, 64, generator=data) for _ in range(STEPS * micro_batches)]

    def ours(some: list[Tensor]) -> float:
        losses = [*map(step.accumulate, some[:-1]), step(some[-1])]
        return float(losses[-1])

    def theirs(some: list[Tensor]) -> float:
        for batch in some[:-1]:
            with reference.no_sync():
                reference(batch).backward()
        loss = reference(some[-1])
        loss.backward()
        norm = options.get("clip_grad_norm")
        if norm:
            nn.utils.clip_grad_norm_(other.parameters(), norm)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    groups = [batches[at : at + micro_batches] for at in range(0, len(batches), micro_batches)]
    losses = [(ours(group), theirs(group)) for group in groups]
    row = Row(
        losses,
        _difference(model.parameters(), other.parameters()),
        _difference(model.buffers(), other.buffers()),
        [float(one.detach().double().sum()) for one in model.parameters()],
        [(report.name, report.peak) for report in memsched.reports()],
        (trace_memory(lambda: ours(groups[0])).peak, trace_memory(lambda: theirs(groups[0])).peak),
    )
    rows: list[Any] = [None] * PROCESSES
    dist.all_gather_object(rows, asdict(row))
    if rank == 0:
        into.put(rows)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # one normal exit in 25 ends in PyTorch's "terminate called without an active exception"


def _difference(first: Any, second: Any) -> float:
    return max(float((one - other).detach().abs().max()) for one, other in zip(first, second, strict=True))

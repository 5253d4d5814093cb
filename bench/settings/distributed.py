"""Set-ups of two or four processes over gloo: every one must run the same plan, and agree on what it computed."""

from __future__ import annotations

import functools
import json
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from bench.settings.setting import Compile, Net, Setting, Step, gradients_of, tokens, training

__all__ = ["SETTINGS", "in_processes"]


def in_processes(setting: str, processes: int) -> dict[str, Any]:
    """The row of the setting of that name, made in `processes` processes, as rank 0 sees it."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        path = Path(folder) / "row.json"
        mp.spawn(_work, (setting, processes, port, str(path)), nprocs=processes)
        row: dict[str, Any] = json.loads(path.read_text())
        return row


def _work(rank: int, setting: str, processes: int, port: int, path: str) -> None:
    from bench.settings.command import measure  # the table of settings names this module

    os.environ |= {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(processes),
    }
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    try:
        found = next(one for one in SETTINGS if one.name == setting)
        row = measure(found)
        everyone: list[Any] = [None] * processes
        dist.all_gather_object(everyone, row["plans"])
        if found.alike:
            row["same_plans"] = all(plans == row["plans"] for plans in everyone)
        if rank == 0:
            Path(path).write_text(json.dumps(row))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    """Each rank has a batch of its own."""
    return tokens(seed=dist.get_rank())


class _Unused(Net):
    """With a layer that no batch reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(8, 8)


def _replicated(compile: Compile, before: bool = False, unused: bool = False, **how: Any) -> Step:
    """DistributedDataParallel, compiled around it or before."""
    model = _Unused() if unused else Net()
    if before:
        return training(model, DistributedDataParallel(compile(model), **how), _data())
    return training(model, compile(DistributedDataParallel(model, **how)), _data())


def _sharded(compile: Compile, per_block: bool = True, bfloat16: bool = False, **how: Any) -> Step:
    """FSDP2: parameters in shards, gathered for each block or for all of the model."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model, mesh = Net(), init_device_mesh("cpu", (dist.get_world_size(),))
    if bfloat16:
        how["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks if per_block else ():
        fully_shard(block, mesh=mesh, **how)
    fully_shard(model, mesh=mesh, **how)
    if per_block:
        for block in model.blocks:
            block.compile(**_keywords(compile))
        return _local_gradients(model, model)
    return _local_gradients(model, compile(model))


def _tensor_parallel(compile: Compile, ends: bool = False) -> Step:
    """The two layers of every block's MLP, split over the ranks; ends: the embedding and the head, too."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model, mesh = Net(), init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    if ends:
        embedding = RowwiseParallel(input_layouts=Replicate())
        head = ColwiseParallel(output_layouts=Replicate())
        parallelize_module(model, mesh, {"embedding": embedding, "head": head})
    return _local_gradients(model, compile(model), tokens())


class _OfPositions(nn.Module):
    """An MLP on the positions of a sequence that its rank has."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(functional.gelu(self.up(self.norm(x))))


def _sequence_parallel(compile: Compile) -> Step:
    """Between the layers that tensor parallelism splits, each rank has its positions only."""
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    model, mesh = nn.Sequential(_OfPositions(), _OfPositions()), init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model:
        plan = {
            "norm": SequenceParallel(),
            "up": ColwiseParallel(input_layouts=Shard(1)),
            "down": RowwiseParallel(output_layouts=Shard(1)),
        }
        parallelize_module(block, mesh, plan)
    compiled, x = compile(model), torch.randn(4, 32, 64)
    return _local(gradients_of(model, lambda: compiled(x).square().mean().backward()))


class _Gather(nn.Module):
    """A parameter from the shards of all ranks; its gradient goes back as shards."""

    def forward(self, shard: torch.Tensor) -> torch.Tensor:
        gathered: torch.Tensor = collectives.all_gather_tensor_autograd(shard, 0, dist.group.WORLD)
        return gathered


def _gathered(compile: Compile, passes: Sequence[str] = ()) -> Step:
    """Every matrix in shards, gathered in the one graph that uses it (SimpleFSDP); with Inductor's overlap passes."""
    model, rank, ranks = Net(), dist.get_rank(), dist.get_world_size()
    for module in list(model.modules()):
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.detach().chunk(ranks)[rank].clone())
            nn.utils.parametrize.register_parametrization(module, "weight", _Gather(), unsafe=True)
    overlap = "reorder_for_compute_comm_overlap"
    compiled = compile(model, options={overlap: True, f"{overlap}_passes": passes} if passes else None)
    return training(model, compiled, _data())


def _stages(compile: Compile) -> Step:
    """A pipeline's stages: each rank compiles its own half, and hands its activations over."""
    half = nn.Sequential(*[nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(2)])
    compiled, rank = compile(half), dist.get_rank()
    x = torch.randn(64, 64)

    def run() -> None:
        if rank == 0:
            given = x
        else:
            given = torch.empty(64, 64)
            dist.recv(given, 0)
            given.requires_grad_()
        out = compiled(given)
        if rank == 0:
            dist.send(out.detach(), 1)
            gradient = torch.empty_like(out)
            dist.recv(gradient, 1)
            out.backward(gradient)
        else:
            out.square().sum().backward()
            assert given.grad is not None
            dist.send(given.grad, 0)

    return gradients_of(half, run)


def _local_gradients(model: nn.Module, compiled: Any, batch: Any = None) -> Step:
    return _local(training(model, compiled, batch or _data()))


def _local(step: Step) -> Step:
    """The values are the local shards of the gradients."""

    def values() -> list[torch.Tensor]:
        return [grad.to_local() if hasattr(grad, "to_local") else grad for grad in step.values()]

    return Step(step.run, values, step.before)


def _keywords(compile: Compile) -> dict[str, Any]:
    """What `Module.compile` is given."""
    return dict(compile.keywords) if isinstance(compile, functools.partial) else {}


def _two(name: str, make: Any, alike: bool = True) -> Setting:
    return Setting(name, "two processes", make, processes=2, alike=alike)


def _four(name: str, make: Any) -> Setting:
    return Setting(name, "four processes", make, processes=4)


SETTINGS = (
    _two("DDP", _replicated),
    _two("DDP, compiled before", functools.partial(_replicated, before=True)),
    _two("DDP, find_unused_parameters", functools.partial(_replicated, unused=True, find_unused_parameters=True)),
    _two("DDP, static graph", functools.partial(_replicated, static_graph=True)),
    _two("DDP, gradients are views of buckets", functools.partial(_replicated, gradient_as_bucket_view=True)),
    _two("FSDP2, per block", _sharded),
    _two("FSDP2, whole model", functools.partial(_sharded, per_block=False)),
    _two("FSDP2, bfloat16", functools.partial(_sharded, bfloat16=True)),
    _two("FSDP2, kept after the forward", functools.partial(_sharded, reshard_after_forward=False)),
    _two("tensor parallel", _tensor_parallel),
    _two("tensor parallel, embedding and head", functools.partial(_tensor_parallel, ends=True)),
    _two("tensor parallel, sequence parallel", _sequence_parallel),
    _two("parameters gathered in the graph", _gathered),
    _two("parameters gathered early", functools.partial(_gathered, passes=["raise_comms", "sink_waits"])),
    _two(
        "parameters gathered early, peak kept",
        functools.partial(_gathered, passes=["sink_waits_iterative", "reorder_communication_preserving_peak_memory"]),
    ),
    _two("stages of a pipeline", _stages, alike=False),
    _four("DDP, four processes", _replicated),
    _four("FSDP2, four processes", _sharded),
    _four("tensor parallel, four processes", _tensor_parallel),
    _four("parameters gathered in four processes", _gathered),
)

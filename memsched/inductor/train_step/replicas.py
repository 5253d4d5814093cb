"""Gradients of a model that several processes train, averaged inside of the step: DistributedDataParallel's part.

    gradient ──> / ranks ──> all_reduce ┄┄> wait ──> update        one call for each bucket of gradients

DistributedDataParallel reduces from hooks of autograd's engine, which a compiled step has not.  Here the same
arithmetic (each gradient divided by the number of processes, then summed) stands between a gradient and its update, so
an update still starts only when its gradient is final.  Gradients are put into buckets as they are born; one is reduced
when its last gradient is there, and holds all of its gradients until then: a large bucket costs bytes, many small ones
cost calls.  A plan keeps the collectives in one order, so it is the same on all processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from memsched.inductor.train_step.refusals import Refusal

__all__ = ["OVERLAP", "Replicas", "averaging", "check_shards", "in_buckets", "replicas_of"]

OVERLAP = {
    "reorder_for_compute_comm_overlap": True,
    "reorder_for_compute_comm_overlap_passes": [
        "sink_waits_iterative",
        "reorder_communication_preserving_peak_memory",
    ],
}
"""Inductor's passes that move a collective and its wait apart, as far as they see the peak not rise."""

_BUCKET_BYTES = 25 * 2**20
"""DistributedDataParallel's own."""


@dataclass(frozen=True)
class Replicas:
    """The processes that train copies of a model.

    model: the copy of this process; process_group: all of them.
    bucket_bytes: the most bytes of gradients in one call, unless one gradient has more.
    buffers: whether all get the first one's buffers (statistics of a BatchNorm) before a forward.
    wrapper: the user's, if there is one.
    """

    model: nn.Module
    process_group: dist.ProcessGroup
    bucket_bytes: int
    buffers: bool = True
    wrapper: DistributedDataParallel | None = None

    @property
    def ranks(self) -> int:
        """How many there are."""
        return int(dist.get_world_size(self.process_group))

    @property
    def group(self) -> str:
        """The name by which collectives know them."""
        name: str = self.process_group.group_name
        return name

    def begin(self) -> None:
        """Give all processes the first one's parameters and buffers, as a wrapper does when it is made."""
        if self.wrapper is None:
            self.share([*self.model.parameters(), *self.model.buffers()])

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes what the first has in `tensors`."""
        first = dist.get_global_rank(self.process_group, 0)
        with torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, first, self.process_group)

    def stock(self) -> DistributedDataParallel:
        """What does all this without memsched."""
        group = self.process_group
        return self.wrapper or DistributedDataParallel(self.model, process_group=group, broadcast_buffers=self.buffers)


def replicas_of(model: nn.Module, process_group: dist.ProcessGroup | None, bucket_bytes: int | None) -> Replicas | None:
    """Who trains copies of `model`; None where nobody does.

    process_group: of a model that is not wrapped.
    bucket_bytes: None for those of the wrapper (`bucket_cap_mb`).

    Raises:
        Refusal: of the wrapper, something that has no place in the step, in one line.
    """
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    for name, module in inner.named_modules():
        if isinstance(module, DistributedDataParallel):
            raise Refusal(f"{name} is wrapped in DistributedDataParallel; wrap the whole model")
    if isinstance(model, DistributedDataParallel):
        _check_wrapper(model, process_group)
        most = model.bucket_bytes_cap if bucket_bytes is None else bucket_bytes
        return Replicas(inner, model.process_group, most, model.broadcast_buffers, model)
    if process_group is None:
        return None
    return Replicas(model, process_group, _BUCKET_BYTES if bucket_bytes is None else bucket_bytes)


def _check_wrapper(model: DistributedDataParallel, process_group: dist.ProcessGroup | None) -> None:
    if process_group is not None:
        raise Refusal("option process_group is for a model without DistributedDataParallel, which has one")
    if getattr(model, "_comm_hooks", None):
        raise Refusal("DistributedDataParallel has a communication hook, which the step would not call; remove it")
    if getattr(model, "mixed_precision", None) is not None:
        raise Refusal("DistributedDataParallel has mixed_precision; use autocast in the model instead")
    if ignored := sorted(getattr(model, "parameters_to_ignore", ())):
        raise Refusal(f"DistributedDataParallel ignores {ignored[0]}; the step averages all gradients")


def check_shards(model: nn.Module) -> None:
    """Raise a `Refusal` for parameters of which this process has a part only."""
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise Refusal(f"{name or 'the model'} is sharded by FSDP, which gathers in hooks; use torch.compile")
    sharded = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())  # dear to import for nothing
    for name, parameter in model.named_parameters():
        if isinstance(parameter, sharded):
            raise Refusal(f"parameter {name} is a DTensor (FSDP2, tensor parallel); use torch.compile")


def in_buckets(gradients: Sequence[Tensor], limit: int) -> list[list[int]]:
    """The gradients, by index, in consecutive buckets of one type and at most `limit` bytes, where two fit."""
    buckets: list[list[int]] = []
    filled = 0
    for at, gradient in enumerate(gradients):
        last = gradients[buckets[-1][-1]] if buckets else None
        alike = last is not None and (last.dtype, last.device) == (gradient.dtype, gradient.device)
        if not alike or filled + gradient.nbytes > limit:
            buckets.append([])
            filled = 0
        buckets[-1].append(at)
        filled += gradient.nbytes
    return buckets


def averaging(group: str, ranks: int) -> Callable[..., tuple[Tensor, ...]]:
    """The average over the processes of `group` of one bucket's gradients."""
    c10d = torch.ops._c10d_functional

    def average(*gradients: Tensor) -> tuple[Tensor, ...]:
        parts = [gradient * (1 / ranks) for gradient in gradients]
        if len(parts) == 1:
            return (c10d.wait_tensor(c10d.all_reduce(parts[0], "sum", group)),)
        return tuple(map(c10d.wait_tensor, c10d.all_reduce_coalesced(parts, "sum", group)))

    return average

"""How the scheduler's nodes are emitted, and how its C++ backend is told to end a group of kernels.

`emissions`     for each node: grouped with its neighbors, alone, or without code
(memsched.storage.kernel_groups) `cut_groups`    end a group behind the nodes that
`memsched.storage.kernel_groups.cuts` chose
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from torch._inductor.codegen.cpp import CppScheduling
from torch._inductor.scheduler import NopKernelSchedulerNode

from memsched.storage.kernel_groups import Emission

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["cut_groups", "emissions"]


def emissions(nodes: Sequence[BaseSchedulerNode]) -> list[Emission]:
    """How the scheduler of `V.graph` will emit each of its nodes (`Scheduler._codegen`)."""
    return [_emission(node) for node in nodes]


def _emission(node: BaseSchedulerNode) -> Emission:
    if isinstance(node, NopKernelSchedulerNode):
        return Emission.NOTHING
    if node.is_extern() or node.is_template():
        return Emission.ALONE
    device = node.get_device()
    return Emission.GROUPED if device is not None and device.type == "cpu" else Emission.KERNEL


def cut_groups(scheduler: Scheduler, behind: Collection[str]) -> None:
    """Make this scheduler's C++ backends end a group behind the nodes called `behind`.

    The backends belong to this scheduler alone, so nothing has to be undone, and other compiles are not touched.
    """
    names = frozenset(behind)
    for device in {node.get_device() for node in scheduler.nodes} - {None}:
        if device.type == "cpu":
            _cut_groups_of(scheduler.get_backend(device), scheduler, names)


def _cut_groups_of(backend: Any, scheduler: Scheduler, names: frozenset[str]) -> None:
    if not isinstance(backend, CppScheduling):
        return
    ready_to_flush = backend.ready_to_flush

    def ready_to_flush_or_cut() -> bool:
        node = scheduler.current_node
        return bool(ready_to_flush()) or (node is not None and node.get_name() in names)

    backend.ready_to_flush = ready_to_flush_or_cut

"""Readers that only order: they keep no buffer alive, so they must not keep one from being written over either.

A write to an input waits for all that read the input's old value.  Inductor says so by a reader of what *they* wrote,
that is marked as weak, with a dependency that is marked as fake (torch/_inductor/scheduler.py, `compute_dependencies`):

    logits = mm(h, w)              reads the old w
    probabilities = softmax(logits)      may be written over the logits: nobody else reads them
    w.copy_(w - lr * gradient)     waits for mm, told as a weak reader of the logits

When it frees buffers Inductor leaves the weak reader out; when it asks whether a buffer may be written over, it counts
it, and the logits are there twice.  Here such readers are forgotten once fusion is done: the dependency, which orders,
stays, and nothing that holds memory is changed.  patches/ has the same rule for PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch._inductor.dependencies import WeakDep
from torch._inductor.virtualized import V

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["forget_order_only_readers"]


def forget_order_only_readers(nodes: Sequence[BaseSchedulerNode]) -> int:
    """Take the readers that only order out of every buffer's list of users; how many were taken out."""
    ordering = {(part.get_name(), name) for node in nodes for part in node.get_nodes() for name in _only_orders(part)}
    scheduler = V.graph.scheduler
    forgotten = 0
    for buffer in (*scheduler.name_to_buf.values(), *scheduler.name_to_donated_buffer.values()):
        users = buffer.users or []
        kept = [user for user in users if not (user.is_weak and (_name(user), buffer.get_name()) in ordering)]
        forgotten += len(users) - len(kept)
        if len(kept) < len(users):
            buffer.users = kept
    return forgotten


def _name(user: Any) -> str:
    name: str = user.node.get_name()
    return name


def _only_orders(node: BaseSchedulerNode) -> set[str]:
    """The buffers that `node` waits for and does not hold."""
    reads = node.read_writes.reads
    held = {dependency.name for dependency in reads if not (isinstance(dependency, WeakDep) and dependency.is_fake)}
    return {dependency.name for dependency in reads} - held

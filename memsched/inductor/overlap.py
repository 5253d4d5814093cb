"""Collectives moved away from their waits, as Inductor's overlap passes do it, within the bytes of a limit.

Inductor runs these passes behind all others (`reorder_for_compute_comm_overlap`), where they take a plan apart:

    plan           g1 w1 a1   g2 w2 a2   g3 w3 a3        one gathered weight at a time
    its passes     g1 g2 g3   w1 a1   w2 a2   w3 a3      three: all that runs beside a collective
    within 2       g1 g2 w1 a1   g3 w2 a2   w3 a3        g3 waits for a1

So here they run inside of the plan, and what they give is judged by the memory model.  Where it needs more than the
limit, the collectives that are early at the peak wait, by an edge, for the op that runs there, and the passes run
again; those that come last in the plan wait first.  An edge follows the plan's order, so there is no cycle, and the
plan itself keeps all of them.  The limit is what stock's order needs under the same passes, or the plan, if that is
more; of a training step it is the plan.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch._inductor.comms as comms
from torch._inductor import config, config_comms, memory
from torch._inductor.dependencies import WeakDep
from torch._inductor.utils import contains_collective
from torch._inductor.virtualized import V

from memsched.core.peak import memory_profile

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

    from memsched.inductor.ordered import OrderedNodes

__all__ = ["AlreadyRun", "moved_within", "overlap_passes", "with_overlap"]

_PLACE = "reorder_for_compute_comm_overlap_passes"

_MOST_ROUNDS = 64
"""Of running the passes; behind them the plan stays as it is."""

_Pass = str | Callable[[list[Any]], list[Any]]


class AlreadyRun:
    """Stands in Inductor's config for its overlap passes, which have run in the plan; returns nodes as they come."""

    def __init__(self, passes: Sequence[_Pass]) -> None:
        self.passes = list(passes)

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        return nodes

    @classmethod
    def instead_of(cls, passes: Sequence[_Pass]) -> list[_Pass]:
        """The config's list for a plan: nothing where there is nothing, and once where it was taken before."""
        return [cls(_unwrapped(passes))] if passes else []


def overlap_passes() -> list[_Pass]:
    """The passes that Inductor would run over the nodes of a graph, none where they are off."""
    if config.deterministic or not config.reorder_for_compute_comm_overlap:
        return []
    return _unwrapped(getattr(config, _PLACE))


def _unwrapped(passes: Sequence[_Pass]) -> list[_Pass]:
    return [one for some in passes for one in (some.passes if isinstance(some, AlreadyRun) else [some])]


def with_overlap(nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
    """The nodes as Inductor's overlap passes order them; as they are where there are none."""
    passes = overlap_passes()
    if not passes or not any(map(contains_collective, nodes)):
        return nodes
    # Of these nodes: what was noted of buffers may be of others, since fusion is tried twice.
    memory.assign_memory_planning_info_for_scheduler_buffers(nodes, V.graph.scheduler.name_to_buf)
    if config_comms.runtime_estimations_align_across_all_distributed_ranks:
        comms.align_runtime_estimations_across_all_distributed_ranks(nodes)
    with config.patch({_PLACE: passes}):
        moved: list[BaseSchedulerNode] = comms.reorder_compute_and_comm_for_overlap(nodes)
    return moved


def moved_within(limit: int, plan: OrderedNodes) -> OrderedNodes:
    """`plan` with its collectives moved by Inductor's passes as far as `limit` bytes, or its own, allow it."""
    limit = max(limit, plan.emitted_peak)
    nodes = plan.in_order()
    with _Waiting() as waiting:
        for _ in range(_MOST_ROUNDS):
            moved = plan.reordered(with_overlap(nodes))
            if moved.emitted_peak <= limit:
                return moved
            if not waiting.against(plan, moved, limit):
                break
    return plan


class _Waiting(contextlib.AbstractContextManager["_Waiting"]):
    """Edges between nodes, which the passes keep as dependencies; taken away again at the end."""

    def __init__(self) -> None:
        self._added: list[tuple[BaseSchedulerNode, WeakDep]] = []

    def __exit__(self, *_: object) -> None:
        for node, dependency in self._added:
            node.unmet_dependencies.discard(dependency)

    def against(self, plan: OrderedNodes, moved: OrderedNodes, limit: int) -> bool:
        """Let what made the peak of `moved` wait as it does in `plan`; False where nothing did."""
        profile = memory_profile(moved.found.graph, moved.found.schedule.order)
        at = moved.found.schedule.order[profile.peak_step]
        too_much = max(profile.peak, moved.emitted_peak) - limit
        found = False
        for op, freed in _early(plan, moved, at):
            self._wait(plan.nodes[op], plan.nodes[at])
            found = True
            too_much -= freed
            if too_much <= 0:
                break
        return found

    def _wait(self, node: BaseSchedulerNode, other: BaseSchedulerNode) -> None:
        """`node` waits for `other`."""
        # The passes ignore dependencies that are marked as fake; lifetimes are told by `read_writes`, which stay.
        dependency = WeakDep(next(iter(other.get_buffer_names())), mutating_buf=node.get_name())
        if dependency not in node.unmet_dependencies:
            node.unmet_dependencies.add(dependency)
            self._added.append((node, dependency))


def _early(plan: OrderedNodes, moved: OrderedNodes, at: int) -> Iterator[tuple[int, int]]:
    """What runs before op `at` in `moved` and behind it in `plan`, with the bytes it allocates: collectives first.

    Among those the last of the plan come first.
    """
    graph, planned = moved.found.graph, plan.found.schedule.order
    behind = set(planned[planned.index(at) + 1 :])
    order = moved.found.schedule.order
    early = behind.intersection(order[: order.index(at)])
    for op in sorted(early, key=lambda op: (not contains_collective(plan.nodes[op]), -planned.index(op))):
        yield op, graph.output_bytes[op]

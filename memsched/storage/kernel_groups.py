"""Groups of C++ kernels: what they add to a peak on CPU, and where to cut them so that they add nothing.

Inductor's C++ backend collects consecutive kernels and emits them as one function.  Everything that a group allocates
is allocated before it, and what dies in it is freed behind it (torch/_inductor/codegen/cpp.py, `KernelGroup`):

    order      k1 k2 k3 | mm | k4           k1 writes a, k2 reads a and writes b, k3 reads b and writes c
    as ops     a  ab bc                     at most two at a time
    as group   abc                          three at once: the group's step peak

A group ends at an extern kernel, or where its backend says `ready_to_flush`.  So a scheduler can be told to cut a
group behind any kernel, at the price of one more function call.  `cuts` finds the fewest cuts with which no step needs
more than a limit: a group is extended for as long as it fits.  That is best, since a group that fits still fits when
it begins later, and with the peak of the order as limit it always succeeds: groups of one kernel add nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.core.peak import memory_profile

__all__ = ["Emission", "cuts", "grouped_peak"]


class Emission(enum.Enum):
    """How code of an op is emitted, and so when its dead buffers are freed.

    GROUPED: with the kernels around it, freed behind the group.
    ALONE: ends the group before it, freed behind it.
    KERNEL: joins no group, and ends none.
    NOTHING: no code; what dies is freed behind the next op that frees, or before the next one that ends a group.
    """

    GROUPED = "grouped"
    ALONE = "alone"
    KERNEL = "kernel"
    NOTHING = "nothing"


@dataclass
class _Replay:
    """Live bytes while ops are emitted: `level` counts what is dead but not freed yet, `dead` is that."""

    level: int
    peak: int
    dead: int = 0

    def flush(self) -> None:
        self.level -= self.dead
        self.dead = 0

    def run(self, emission: Emission, allocated: int, freed: int) -> None:
        if emission is Emission.ALONE:
            self.flush()
        self.level += allocated
        self.peak = max(self.peak, self.level)
        self.dead += freed
        if emission in (Emission.ALONE, Emission.KERNEL):
            self.flush()


def grouped_peak(graph: Graph, order: Sequence[int], emitted: Sequence[Emission], cut: Collection[int] = ()) -> int:
    """The peak of `order` when groups end at the ops in `cut` only, where they must; bytes.

    graph: of the memory model, for this order; emitted: by op.
    """
    profile = memory_profile(graph, order)
    replay = _Replay(profile.start, profile.start)
    level = profile.start
    for op, step_peak, after in zip(order, profile.step_peaks, profile.levels, strict=True):
        replay.run(emitted[op], step_peak - level, step_peak - after)
        if op in cut:
            replay.flush()
        level = after
    return replay.peak


def cuts(graph: Graph, order: Sequence[int], emitted: Sequence[Emission], limit: int) -> frozenset[int]:
    """The fewest ops behind which to end a group so that nothing needs more than `limit` bytes, where that is possible.

    An op without code cannot end a group: what dies at it may stay for one group more.
    """
    profile = memory_profile(graph, order)
    replay = _Replay(profile.start, profile.start)
    level = profile.start
    cut = set()
    last_kernel: int | None = None
    dead_since_last_kernel = 0
    for op, step_peak, after in zip(order, profile.step_peaks, profile.levels, strict=True):
        allocated, freed = step_peak - level, step_peak - after
        level = after
        grouped = emitted[op] is Emission.GROUPED
        if grouped and last_kernel is not None and replay.level + allocated > limit:
            cut.add(last_kernel)
            replay.level -= replay.dead - dead_since_last_kernel
            replay.dead = dead_since_last_kernel
        replay.run(emitted[op], allocated, freed)
        if grouped:
            last_kernel, dead_since_last_kernel = op, 0
        elif emitted[op] is Emission.NOTHING:
            dead_since_last_kernel += freed
        else:
            last_kernel = None
    return frozenset(cut)

"""When each buffer lives, and how many bytes live at each step: what every picture of a plan is drawn from.

    order        a    b    c    d          X = 4 (a -> b, c), Y = 1 (b -> d), Z = 2 (c -> d), d writes 1 kept byte W
    X            ├─────────┤               lifetime (0, 2): allocated by step 0, freed when step 2 has run
    Y                 ├─────────┤          lifetime (1, 3)
    Z                      ├────┤          lifetime (2, 3)
    W                           ├──        lifetime (3, 4): step 4 does not exist, W is never freed
    step peak    4    5    7    4          the peak is 7, at step 2, where X, Y and Z are live

An input has first = -1: it is live before the first op.  All bytes come from `memsched.core.peak`; a lifetime holds no
sum of its own, and the lifetimes that cover a step add up, with the workspace of its op, to the step's peak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from memsched.core.graph import Graph
from memsched.core.peak import MemoryProfile, memory_profile
from memsched.records.origin import Origin

__all__ = ["Lifetime", "Timeline", "timeline_of"]


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The steps, both included, while which a buffer is resident.

    first: the step that allocates it, -1 for an input; last: the step after which it is freed, one past the last step
    of the order when it is never freed.
    """

    first: int
    last: int

    def covers(self, step: int) -> bool:
        """Whether the buffer is resident while `step` runs."""
        return self.first <= step <= self.last


@dataclass(frozen=True)
class Timeline:
    """One order of one graph, with the lifetime of every buffer, by index, and bytes at every step.

    title names the order for people; origins tell, by the name of a buffer, where it comes from.
    """

    title: str
    graph: Graph
    order: tuple[int, ...]
    profile: MemoryProfile
    lifetimes: tuple[Lifetime, ...]
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def live_at(self, step: int) -> tuple[int, ...]:
        """Indices of the buffers that are resident while `step` runs, largest first, ties by index."""
        live = [index for index, lifetime in enumerate(self.lifetimes) if lifetime.covers(step)]
        return tuple(sorted(live, key=lambda index: (-self.graph.buffers[index].size, index)))

    def allocated_at(self) -> tuple[tuple[int, ...], ...]:
        """For each step the buffers that it allocates."""
        return tuple(self.graph.outputs_of[op] for op in self.order)

    def freed_after(self) -> tuple[tuple[int, ...], ...]:
        """For each step the buffers that are freed when it has run, in the order of their indices."""
        freed: list[list[int]] = [[] for _ in self.order]
        for index, lifetime in enumerate(self.lifetimes):
            if lifetime.last < len(self.order):
                freed[lifetime.last].append(index)
        return tuple(map(tuple, freed))


def timeline_of(
    graph: Graph, order: Sequence[int], title: str = "", origins: Mapping[str, Origin] | None = None
) -> Timeline:
    """Replay `order`, a topological order of `graph`.  O(ops + buffers + reads)."""
    position = [0] * len(order)
    for step, op in enumerate(order):
        position[op] = step
    lifetimes = []
    for buffer in graph.buffers:
        first = -1 if buffer.producer is None else position[buffer.producer]
        last = len(order) if buffer.kept else max((position[op] for op in buffer.consumers), default=first)
        lifetimes.append(Lifetime(first, last))
    return Timeline(title, graph, tuple(order), memory_profile(graph, order), tuple(lifetimes), origins or {})

"""**The** definition of live bytes.  Every peak that memsched reports comes out of this file.

Ops run one at a time.  Before op v runs, every live buffer is resident; v's outputs and its workspace are added: that
sum is v's *step peak*.  Then every buffer whose last consumer is v is freed, and so is an output of v that nobody
reads and nobody keeps.  What remains is the *level* after v.

    order    a    b    c    d            X = 4 (a -> b, c), Y = 1 (b -> d), Z = 2 (c -> d), d writes 1 kept byte
    step     4    5    7    4            the peak is 7, at c: X, Y and Z are live together
    level    4    5    3    1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph

__all__ = ["MemoryProfile", "live_buffers", "memory_profile", "peak_bytes"]


@dataclass(frozen=True, slots=True)
class MemoryProfile:
    """Live bytes over time: `start` before the first op, then one step peak and one level for each op of the order."""

    start: int
    step_peaks: tuple[int, ...]
    levels: tuple[int, ...]

    @property
    def peak(self) -> int:
        """The largest number of bytes that are ever live."""
        return max(self.start, max(self.step_peaks, default=0))

    @property
    def peak_step(self) -> int:
        """The first position in the order whose step peak is the largest."""
        return self.step_peaks.index(max(self.step_peaks))


def memory_profile(graph: Graph, order: Sequence[int]) -> MemoryProfile:
    """Replay `order`, a topological order of `graph`; bytes.  O(ops + buffers + reads)."""
    outputs_of, inputs_of, output_bytes = graph.outputs_of, graph.inputs_of, graph.output_bytes
    workspaces = [op.workspace for op in graph.ops]
    freeable = [0 if buffer.kept else buffer.size for buffer in graph.buffers]
    unread = [len(buffer.consumers) for buffer in graph.buffers]
    level = graph.start_bytes
    step_peaks: list[int] = []
    levels: list[int] = []
    for op in order:
        level += output_bytes[op]
        step_peaks.append(level + workspaces[op])
        for index in outputs_of[op]:
            if not unread[index]:
                level -= freeable[index]
        for index in inputs_of[op]:
            unread[index] -= 1
            if not unread[index]:
                level -= freeable[index]
        levels.append(level)
    return MemoryProfile(graph.start_bytes, tuple(step_peaks), tuple(levels))


def peak_bytes(graph: Graph, order: Sequence[int]) -> int:
    """Largest number of live bytes while `order` runs: allocate outputs, run the op, free what died; bytes."""
    return memory_profile(graph, order).peak


def live_buffers(graph: Graph, order: Sequence[int], step: int) -> tuple[int, ...]:
    """Indices of the buffers that are resident while position `step` of `order` runs, in the order of their indices."""
    position = {op: at for at, op in enumerate(order)}
    live = []
    for index, buffer in enumerate(graph.buffers):
        born = -1 if buffer.producer is None else position[buffer.producer]
        readers = [position[consumer] for consumer in buffer.consumers]
        dies = len(order) if buffer.kept else max(readers, default=born if born >= 0 else len(order))
        if born <= step <= dies:
            live.append(index)
    return tuple(live)

"""An order with everything that its peak is made of, so that changing a few steps costs only those steps.

The live bytes after a set of ops do not depend on the order in which they ran.  So when the ops of positions
[start, stop) are permuted, no step outside changes, and the level at `stop` is known.  A replay runs *backwards* from
there: going back over an op first un-frees the buffers that it read last (the first time that a buffer is met is its
last reader) and then takes away what the op left behind.

    position    0    1    2    3          replace [1, 3) by (c, b): from the level after d's predecessors, 3, backwards
    op          a    b    c    d            b: un-frees X (4), leaves Y (1)   level before 6, step 7
    step peak   4    5    7    4            c: un-frees nothing, leaves Z (2) level before 4, step 6
"""

from __future__ import annotations

from collections.abc import Sequence

from memsched.core.graph import Graph
from memsched.core.peak import memory_profile

__all__ = ["Replay", "Timeline"]

Replay = tuple[list[int], list[int]]
"""Step peaks, and levels before each step, of a permuted window."""


class Timeline:
    """An order of a graph under small changes; all sequences are indexed by op, buffer or position as named.

    order, position: the op at each position, and back.
    step_peaks, levels: bytes while each position runs and before it; `levels` has one more entry, the end.
    last_read: for each buffer the position that frees it; beyond the end when it is kept.
    hump, net: for each op what it adds while it runs, and what of its outputs outlives it.
    inputs: for each op the buffers that it may free.
    """

    def __init__(self, graph: Graph, order: Sequence[int]) -> None:
        self.graph = graph
        buffers = graph.buffers
        self.size = [buffer.size for buffer in buffers]
        self.consumers = [buffer.consumers for buffer in buffers]
        self.hump = [graph.output_bytes[op] + graph.ops[op].workspace for op in range(len(graph))]
        self.net = [
            sum(self.size[index] for index in outputs if buffers[index].kept or buffers[index].consumers)
            for outputs in graph.outputs_of
        ]
        self.inputs = [
            tuple(index for index in inputs if self.size[index] and not buffers[index].kept)
            for inputs in graph.inputs_of
        ]
        self._met = [0] * len(buffers)
        self._replays = 0
        self.load(order)

    def load(self, order: Sequence[int]) -> None:
        """Start over from `order`."""
        self.order = list(order)
        self.position = [0] * len(self.order)
        for at, op in enumerate(self.order):
            self.position[op] = at
        profile = memory_profile(self.graph, self.order)
        self.step_peaks = list(profile.step_peaks)
        self.levels = [profile.start, *profile.levels]
        self.last_read = [
            len(self.order) if buffer.kept else max((self.position[reader] for reader in buffer.consumers), default=-1)
            for buffer in self.graph.buffers
        ]

    def replay(self, start: int, stop: int, ops: Sequence[int]) -> Replay:
        """Step peaks and levels if positions [start, stop) ran `ops`, a legal permutation of theirs."""
        self._replays += 1
        met, now = self._met, self._replays
        last_read, size, inputs, net, hump = self.last_read, self.size, self.inputs, self.net, self.hump
        level = self.levels[stop]
        step_peaks: list[int] = []
        levels: list[int] = []
        for op in reversed(ops):
            for index in inputs[op]:
                if met[index] != now and last_read[index] < stop:
                    met[index] = now
                    level += size[index]
            level -= net[op]
            levels.append(level)
            step_peaks.append(level + hump[op])
        step_peaks.reverse()
        levels.reverse()
        return step_peaks, levels

    def replace_by_better(self, start: int, stop: int, candidates: Sequence[Sequence[int]]) -> None:
        """Replace the window by the candidate of least largest step, the first one on ties."""
        replays = [self.replay(start, stop, ops) for ops in candidates]
        best = min(range(len(candidates)), key=lambda index: max(replays[index][0]))
        self.replace(start, stop, candidates[best], replays[best])

    def replace(self, start: int, stop: int, ops: Sequence[int], replay: Replay) -> None:
        """Make positions [start, stop) run `ops`, whose replay is given."""
        self.order[start:stop] = ops
        self.step_peaks[start:stop], self.levels[start:stop] = replay
        position, last_read = self.position, self.last_read
        for at, op in enumerate(ops, start):
            position[op] = at
        for at, op in enumerate(ops, start):
            for index in self.inputs[op]:
                # increasing positions: what stays is the last reader
                if last_read[index] < stop:
                    last_read[index] = at

"""The two moves of the local search, both on a window of consecutive positions of an order.

`cut_window` makes the window pass through the least down-set with which one of its ops can run (see
`memsched.search.cuts.cuts`), the best split of the window for that op.  `reorder_window` finds an order of the whole
window with the least largest step, by best-first search over the sets of ops that have run:

    window  b c d   {} ──b 6──> {b} ──c 8──> {b,c} ──d 8──> {b,c,d}       a path costs its largest step;
                     └───c 7──> {c} ──b 7──> {b,c} ...                    the cheapest path is the best order

A step that does not raise the level and fits under what the path already costs is taken at once: doing it now cannot
hurt what follows (users of best-first search over down-sets call it a safe step; algebraically a valley commit of one
op).  The search gives up when it has generated its number of states.
"""

from __future__ import annotations

import heapq

from memsched.search.cuts.cuts import AFTER, BEFORE, FREE, CutNetwork, reroute
from memsched.search.local.timeline import Timeline

__all__ = ["WindowCutter", "reorder_window"]


class WindowCutter:
    """Minimum cuts inside windows of one timeline.  `work` is what the last one looked at: ops and arcs."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        # outside the window every op counts as run: no walk leaves the window
        self._state = bytearray([BEFORE]) * len(timeline.order)
        self.work = 0

    def cut_window(self, start: int, stop: int, at: int) -> tuple[list[int], list[int]]:
        """The ops of [start, stop) rerouted through the least down-set with which the op at position `at` can start.

        Twice: as they follow one another, and with that op right after the down-set (see `memsched.search.cuts.cuts`).
        """
        timeline, state = self._timeline, self._state
        ops = timeline.order[start:stop]
        for op in ops:
            state[op] = FREE
        self._mark(timeline.order[at])
        choices = self._choices(ops, stop)
        self.work = len(ops)
        if choices:
            network = CutNetwork(timeline.graph.predecessors, timeline.net, state, choices)
            self.work += len(network.arcs)
            for op in network.ops_of(network.maximum_flow().source_side):
                state[op] = BEFORE
        for op in ops:
            if state[op] != BEFORE:
                state[op] = FREE
        # from here on BEFORE is 1 and says "in the down-set", FREE is 0
        rerouted = reroute(ops, state), reroute(ops, state, timeline.order[at])
        for op in ops:
            state[op] = BEFORE
        return rerouted

    def _mark(self, op: int) -> None:
        """Ancestors of `op` in the window must have run, `op` and its descendants must not."""
        graph, state = self._timeline.graph, self._state
        state[op] = AFTER
        for side, neighbours in ((BEFORE, graph.predecessors), (AFTER, graph.successors)):
            stack = [op]
            while stack:
                for other in neighbours[stack.pop()]:
                    if state[other] == FREE:
                        state[other] = side
                        stack.append(other)

    def _choices(self, ops: list[int], stop: int) -> list[tuple[int, int, list[int]]]:
        """Buffers that the free ops of the window may free, with their free readers."""
        timeline, state = self._timeline, self._state
        choices: list[tuple[int, int, list[int]]] = []
        seen: set[int] = set()
        for op in ops:
            if state[op] != FREE:
                continue
            for index in timeline.inputs[op]:
                if index in seen or timeline.last_read[index] >= stop:
                    continue
                seen.add(index)
                readers = timeline.consumers[index]
                if all(state[reader] != AFTER for reader in readers):
                    free_readers = [reader for reader in readers if state[reader] == FREE]
                    choices.append((index, timeline.size[index], free_readers))
        return choices


def reorder_window(timeline: Timeline, start: int, stop: int, max_states: int) -> tuple[list[int] | None, int]:
    """Ops of [start, stop) in an order whose largest step is least and below the present one; None if there is none.

    Also returns the number of states generated; after `max_states` the search gives up.
    """
    search = _WindowSearch(timeline, start, stop)
    path = search.run(max(timeline.step_peaks[start:stop]), max_states)
    ops = timeline.order[start:stop]
    return (None if path is None else [ops[local] for local in path]), search.num_states


_State = tuple[int, int, int, list[int]]
"""Largest step so far, level, the ops that have run as bits, the ready ops; orders the heap."""


class _WindowSearch:
    """Best-first search over the down-sets of a window; ops are numbered by their place in it."""

    def __init__(self, timeline: Timeline, start: int, stop: int) -> None:
        ops = timeline.order[start:stop]
        predecessors = timeline.graph.predecessors
        position = timeline.position
        self.num_states = 0
        self._level = timeline.levels[start]
        self._ends = max(self._level, timeline.levels[stop])
        self._hump = [timeline.hump[op] for op in ops]
        self._before = [0] * len(ops)
        self._after: list[list[int]] = [[] for _ in ops]
        for local, op in enumerate(ops):
            for other in predecessors[op]:
                if position[other] >= start:
                    self._before[local] |= 1 << (position[other] - start)
                    self._after[position[other] - start].append(local)
        self._net = [timeline.net[op] for op in ops]
        self._shared: list[list[tuple[int, int]]] = [[] for _ in ops]
        self._place_frees(timeline, ops, start, stop)

    def _place_frees(self, timeline: Timeline, ops: list[int], start: int, stop: int) -> None:
        """A buffer with one reader in the window is freed by it; one with several by the last, whichever that is."""
        seen: set[int] = set()
        for op in ops:
            for index in timeline.inputs[op]:
                if index in seen or timeline.last_read[index] >= stop:
                    continue
                seen.add(index)
                places = [timeline.position[reader] - start for reader in timeline.consumers[index]]
                readers = [place for place in places if place >= 0]
                if len(readers) == 1:
                    self._net[readers[0]] -= timeline.size[index]
                else:
                    mask = sum(1 << reader for reader in readers)
                    for reader in readers:
                        self._shared[reader].append((mask, timeline.size[index]))

    def run(self, ceiling: int, max_states: int) -> list[int] | None:
        """Places of an order whose largest step is least and below `ceiling`, or None."""
        full = (1 << len(self._hump)) - 1
        ready = [local for local, before in enumerate(self._before) if not before]
        done, level, ready, steps = self._safe_steps(0, self._level, ready, self._ends)
        cost = {done: self._ends}
        came: dict[int, tuple[int, list[int]]] = {done: (-1, steps)}
        heap: list[_State] = [(self._ends, level, done, ready)]
        while heap:
            largest, level, done, ready = heapq.heappop(heap)
            if cost[done] < largest:
                continue
            if done == full:
                return _path(came, done)
            if self.num_states > max_states:
                return None
            for local in ready:
                step = max(largest, level + self._hump[local])
                if step >= ceiling:
                    continue
                self.num_states += 1
                state = self._run_one(local, done, level, ready)
                other, other_level, other_ready, steps = self._safe_steps(*state, step)
                if step < cost.get(other, ceiling):
                    cost[other] = step
                    came[other] = (done, [local, *steps])
                    heapq.heappush(heap, (step, other_level, other, other_ready))
        return None

    def _run_one(self, local: int, done: int, level: int, ready: list[int]) -> tuple[int, int, list[int]]:
        """The state after one more op."""
        done |= 1 << local
        level += self._delta(local, done)
        ready = [other for other in ready if other != local]
        for other in self._after[local]:
            if not self._before[other] & ~done:
                ready.append(other)
        return done, level, ready

    def _safe_steps(
        self, done: int, level: int, ready: list[int], largest: int
    ) -> tuple[int, int, list[int], list[int]]:
        """Run every ready op that fits and does not raise the level, until there is none."""
        steps: list[int] = []
        found = True
        while found:
            found = False
            for local in ready:
                if level + self._hump[local] <= largest and self._delta(local, done | 1 << local) <= 0:
                    done, level, ready = self._run_one(local, done, level, ready)
                    steps.append(local)
                    found = True
                    break
        return done, level, ready, steps

    def _delta(self, local: int, done: int) -> int:
        """By how much the level changes when `local` is the last op of `done`."""
        delta = self._net[local]
        for mask, size in self._shared[local]:
            if not mask & ~done:
                delta -= size
        return delta


def _path(came: dict[int, tuple[int, list[int]]], done: int) -> list[int]:
    pieces: list[list[int]] = []
    while done >= 0:
        done, steps = came[done]
        pieces.append(steps)
    return [local for steps in reversed(pieces) for local in steps]

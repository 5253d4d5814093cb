"""A graph whose ops are being fused into groups, in an order that is kept up to date.

Fusing two groups contracts them to one: its outputs are allocated together, its inputs are freed together, and a
buffer that only the group itself reads is never allocated at all.  The groups stay in a legal order, a linked list,
and every group knows the live bytes before it and its step peak.  A fusion changes only what lies between its two
groups, so evaluating one costs the length of that *window*, not the length of the graph.

    order      … A  x  y  z  B …      y reads A's output (a descendant of A), x is an ancestor of B
    late       … x  z  AB  y …        A waits for B: what A frees stays alive, what only A feeds follows
    early      … x  AB  y  z …        B comes to A: its outputs are born early, its other inputs must be ready

A group outside the window never notices: no buffer that it touches is born or freed elsewhere than before.

An output that is written over an input which dies there takes no bytes of its own while its group runs
(`memsched.fusion.in_place`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.fusion.in_place import InPlace

__all__ = ["FusionCycle", "Groups", "Placement"]

_END = -1


class FusionCycle(ValueError):
    """Fusing the two groups would make a third one run both before and after them."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One way to order the window when `first` and `second` become one group.

    sequence: the groups of the window in their new order, where `first` stands for the fused group.
    peak: largest step peak in the window then; bytes.
    peak_before: largest step peak in the window now; bytes.
    """

    first: int
    second: int
    sequence: tuple[int, ...]
    peak: int
    peak_before: int


class Groups:
    """Ops contracted to groups.  A group is named by the smallest op that it began with.

    in_place: what may be written over what; by default every output has a storage of its own.
    """

    def __init__(self, graph: Graph, order: Sequence[int], in_place: InPlace | None = None) -> None:
        num_ops = len(graph.ops)
        self.graph = graph
        self.in_place = in_place or InPlace(graph, {})
        self.visited = 0  # groups simulated so far: the work that a caller may limit
        self.version = 0  # fusions so far: answers hold only within a version
        self.group_of = list(range(num_ops))
        self.members: dict[int, list[int]] = {op: [op] for op in range(num_ops)}
        self._workspace = {op: graph.ops[op].workspace for op in range(num_ops)}
        self._before = {op: set(graph.predecessors[op]) for op in range(num_ops)}
        self._after = {op: set(graph.successors[op]) for op in range(num_ops)}
        self._outputs = {op: list(graph.outputs_of[op]) for op in range(num_ops)}
        self._inputs = {op: list(graph.inputs_of[op]) for op in range(num_ops)}
        self._producer = [_END if buffer.producer is None else buffer.producer for buffer in graph.buffers]
        self._readers = [set(buffer.consumers) for buffer in graph.buffers]
        self._kept = [buffer.kept for buffer in graph.buffers]
        self._size = [buffer.size for buffer in graph.buffers]
        self._level: dict[int, int] = {}
        self._step_peak: dict[int, int] = {}
        self.reorder(list(order))

    def order(self) -> list[int]:
        """The groups in their present order."""
        groups, group = [], self._first
        while group != _END:
            groups.append(group)
            group = self._next[group]
        return groups

    def peak(self) -> int:
        """The largest step peak of the present order, and the bytes that are live at the start."""
        return max(self.graph.start_bytes, max(self._step_peak.values()))

    def position(self, group: int) -> int:
        """A number that increases along the order."""
        return self._label[group]

    def placements(self, group: int, other: int) -> list[Placement]:
        """The ways to fuse two groups, best first; raises FusionCycle when there is none."""
        first, second = (group, other) if self._label[group] < self._label[other] else (other, group)
        window = self._window(first, second)
        middle = window[1:-1]
        descendants = self._descendants(first, middle)
        if not descendants.isdisjoint(self._before[second]):
            raise FusionCycle(f"group {second} depends on group {first} through a third group")
        ancestors = self._ancestors(second, middle)
        late = [g for g in middle if g not in descendants]
        late += [first, *(g for g in middle if g in descendants)]
        early = [g for g in middle if g in ancestors]
        early += [first, *(g for g in middle if g not in ancestors)]
        before = max(self._step_peak[g] for g in window)
        found = []
        for sequence in (late, early) if late != early else (late,):
            steps, _ = self._simulate(sequence, (first, second), self._level[first])
            found.append((max(steps), sum(steps), sequence))
        found.sort(key=lambda item: item[:2])
        return [Placement(first, second, tuple(sequence), peak, before) for peak, _, sequence in found]

    def depends(self, group: int, other: int) -> bool:
        """Whether one of the groups must run right before the other."""
        return other in self._after[group] or group in self._after[other]

    def traffic(self, group: int, other: int) -> int:
        """Bytes that fusing the two groups need no longer be moved: each kernel is taken to move whole buffers.

        What both read is read once; what one hands to the other is not read, nor written when nobody else needs it.
        """
        pair = {group, other}
        shared = set(self._inputs[group]).intersection(self._inputs[other])
        saved = sum(self._size[buffer] for buffer in shared if self._producer[buffer] not in pair)
        for producer, reader in ((group, other), (other, group)):
            for buffer in self._outputs[producer]:
                if reader in self._readers[buffer]:
                    local = self._readers[buffer] <= pair and not self._kept[buffer]
                    saved += self._size[buffer] * (2 if local else 1)
        return saved

    def peak_after(self, placement: Placement) -> int:
        """The peak of the whole order once `placement` is carried out; bytes."""
        if placement.peak_before < self.peak():  # the largest step is outside the window
            return max(self.peak(), placement.peak)
        window = {*placement.sequence, placement.second}
        outside = max((peak for group, peak in self._step_peak.items() if group not in window), default=0)
        return max(self.graph.start_bytes, outside, placement.peak)

    def order_after(self, placement: Placement) -> list[int]:
        """The groups in their order once `placement` is carried out; `first` stands for the fused group."""
        order = self.order()
        at = order.index(placement.first)
        order[at : at + len(placement.sequence) + 1] = placement.sequence
        return order

    def overwritten(self, placement: Placement) -> list[tuple[str, str]]:
        """The names of outputs, and of what they are written over once the groups of `placement` are one."""
        if not self.in_place:
            return []
        kernel_of = self._kernel_with((placement.first, placement.second))
        buffers = self.graph.buffers
        found = []
        for output, buffer in enumerate(buffers):
            source = self.in_place.taken_over(output, kernel_of)
            if source is not None and not self._is_local(output, kernel_of):
                found.append((buffer.name, buffers[source].name))
        return found

    def _is_local(self, buffer: int, kernel_of: Callable[[int], int]) -> bool:
        """Whether only the kernel that writes a buffer reads it."""
        one = self.graph.buffers[buffer]
        if one.kept or one.producer is None or not one.consumers:
            return False
        return all(kernel_of(op) == kernel_of(one.producer) for op in one.consumers)

    def reorder(self, order: Sequence[int]) -> None:
        """Take `order`, a legal order of the groups, for the present one."""
        self._label = {group: at for at, group in enumerate(order)}
        self._next = dict(zip(order, [*order[1:], _END], strict=True))
        self._previous = dict(zip(order, [_END, *order[:-1]], strict=True))
        self._first = order[0]
        self._replay(order, self.graph.start_bytes)
        self.visited += len(order)
        self.version += 1

    def fuse(self, placement: Placement) -> int:
        """Contract the two groups of `placement` and put the window in its order; returns the fused group."""
        first, second = placement.first, placement.second
        window = self._window(first, second)
        level = self._level[first]
        labels = [self._label[g] for g in window]
        outside = self._previous[first], self._next[second]
        self._contract(first, second)
        self._relink(placement.sequence, labels, outside)
        self._replay(placement.sequence, level)
        self.version += 1
        return first

    def _window(self, first: int, second: int) -> list[int]:
        window = [first]
        while window[-1] != second:
            window.append(self._next[window[-1]])
        self.visited += len(window)
        return window

    def _descendants(self, first: int, middle: Sequence[int]) -> set[int]:
        reached = {first}
        for group in middle:
            if not reached.isdisjoint(self._before[group]):
                reached.add(group)
        reached.discard(first)
        return reached

    def _ancestors(self, second: int, middle: Sequence[int]) -> set[int]:
        reached = {second}
        for group in reversed(middle):
            if not reached.isdisjoint(self._after[group]):
                reached.add(group)
        reached.discard(second)
        return reached

    def _simulate(
        self, sequence: Sequence[int], pair: tuple[int, int] | None, level: int
    ) -> tuple[list[int], list[int]]:
        """Step peaks, and levels before each step, of `sequence`; with `pair`, its first group stands for both."""
        at = {group: step for step, group in enumerate(sequence)}
        if pair:
            at[pair[1]] = at[pair[0]]
        last_label = max(self._label[group] for group in at)
        born, freed = [0] * len(sequence), [0] * len(sequence)
        allocated, last = dict[int, int](), dict[int, int]()
        touched = dict.fromkeys(b for group in at for b in (*self._outputs[group], *self._inputs[group]))
        for buffer in touched:
            birth, death = self._lifetime(buffer, at, last_label)
            if birth is not None and birth == death and self._readers[buffer]:
                continue  # only the kernel itself reads it: never allocated
            if birth is not None:
                born[birth] += self._size[buffer]
                allocated[buffer] = birth
            if death is not None:
                freed[death] += self._size[buffer]
                last[buffer] = death
        workspace = [self._workspace[group] for group in sequence]
        if pair:
            workspace[at[pair[0]]] = max(self._workspace[group] for group in pair)
        kernel_of = self._kernel_with(pair)
        for buffer, step in allocated.items() if self.in_place else ():
            source = self.in_place.taken_over(buffer, kernel_of)
            if source is not None and last.get(source) == step:
                workspace[step] -= min(self._size[source], self._size[buffer])
        steps, levels = [], []
        for step in range(len(sequence)):
            levels.append(level)
            level += born[step]
            steps.append(level + workspace[step])
            level -= freed[step]
        self.visited += len(sequence)
        return steps, levels

    def _kernel_with(self, pair: tuple[int, int] | None) -> Callable[[int], int]:
        """The group of an op, where the groups of `pair` are one."""
        if pair is None:
            return self.group_of.__getitem__
        first, second = pair
        return lambda op: first if self.group_of[op] == second else self.group_of[op]

    def _lifetime(self, buffer: int, at: dict[int, int], last_label: int) -> tuple[int | None, int | None]:
        """The steps of the window that allocate and free `buffer`; None for what happens outside or never."""
        birth = at.get(self._producer[buffer])
        if self._kept[buffer]:
            return birth, None
        death = birth
        for reader in self._readers[buffer]:
            step = at.get(reader)
            if step is None:
                if self._label[reader] > last_label:
                    return birth, None
            elif death is None or step > death:
                death = step
        return birth, death

    def _replay(self, sequence: Sequence[int], level: int) -> None:
        """Note the level before, and the step peak of, every group of `sequence`."""
        steps, levels = self._simulate(sequence, None, level)
        self._step_peak.update(zip(sequence, steps, strict=True))
        self._level.update(zip(sequence, levels, strict=True))

    def _contract(self, first: int, second: int) -> None:
        """Make `second` part of `first` everywhere."""
        for op in self.members[second]:
            self.group_of[op] = first
        self.members[first] += self.members.pop(second)
        self._workspace[first] = max(self._workspace[first], self._workspace.pop(second))
        for neighbours, mirror in ((self._before, self._after), (self._after, self._before)):
            for group in sorted(neighbours.pop(second)):
                mirror[group].discard(second)
                mirror[group].add(first)
                neighbours[first].add(group)
            neighbours[first] -= {first, second}
        for buffer in self._outputs[second]:
            self._producer[buffer] = first
        for buffer in self._inputs[second]:
            self._readers[buffer].discard(second)
            self._readers[buffer].add(first)
        self._outputs[first] += self._outputs.pop(second)
        self._inputs[first] = list(dict.fromkeys(self._inputs[first] + self._inputs.pop(second)))
        for table in (self._label, self._level, self._step_peak):
            del table[second]

    def _relink(self, sequence: Sequence[int], labels: Sequence[int], outside: tuple[int, int]) -> None:
        """Put `sequence` in place of the window, whose labels it takes over; labels keep increasing along the order."""
        previous, following = outside
        chain = [previous, *sequence, following]
        for at, group in enumerate(sequence, start=1):
            self._label[group] = labels[at - 1]
            self._previous[group], self._next[group] = chain[at - 1], chain[at + 1]
        if previous == _END:
            self._first = sequence[0]
        else:
            self._next[previous] = sequence[0]
        if following != _END:
            self._previous[following] = sequence[-1]

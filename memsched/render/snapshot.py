"""The plan as the snapshot that PyTorch's allocator would have recorded: for pytorch.org/memory_viz and its tools.

`torch.cuda.memory._dump_snapshot` writes a pickle; `torch.cuda._memory_viz` and the viewer in the browser read it:

    device_traces   [[alloc, alloc, free_requested, free_completed, ...]]    what happened, in time
    segments        [{blocks: [...]}]                                        what is still held at the end

Inputs are allocated at time 0, so that the events alone add up to the peak; workspaces are allocated and freed around
their op; buffers that are never freed are the blocks of one segment.  Everything else is honest about being predicted:
addresses are unique and mean nothing (there is no claim about fragmentation), `time_us` counts steps.  Buffers of zero
bytes do not occur.  The viewer's own unpickler reads protocols 2 to 4 and plain containers, hence protocol 4.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable
from typing import Any

from memsched.records.origin import Origin
from memsched.render.text.words import type_of
from memsched.render.timeline import Timeline

__all__ = ["render_snapshot", "snapshot_of"]

_FIRST_ADDRESS = 0x7F00_0000_0000
_PROTOCOL = 4
_SOURCE = re.compile(r"(?P<file>.+?):(?P<line>\d+)(?: in (?P<function>[^:]+))?")


def render_snapshot(timeline: Timeline) -> bytes:
    """The pickle of `snapshot_of(timeline)`."""
    return pickle.dumps(snapshot_of(timeline), protocol=_PROTOCOL)


def snapshot_of(timeline: Timeline) -> dict[str, Any]:
    """The snapshot as plain lists and dicts; sizes in bytes."""
    return _Recorder(timeline).snapshot()


class _Recorder:
    """Replays an order and writes down what an allocator would have seen."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.buffers = timeline.graph.buffers
        self.events: list[dict[str, Any]] = []
        self.next_address = _FIRST_ADDRESS
        # kept buffers come first, so that the blocks that are left at the end tile one segment
        self.kept = [index for index, buffer in enumerate(self.buffers) if buffer.kept and buffer.size]
        self.addresses = {index: self._address(self.buffers[index].size) for index in self.kept}
        for index, buffer in enumerate(self.buffers):
            if index not in self.addresses:
                self.addresses[index] = self._address(buffer.size)

    def snapshot(self) -> dict[str, Any]:
        """Record every step, then what is left."""
        timeline = self.timeline
        allocated, freed = timeline.allocated_at(), timeline.freed_after()
        self._allocate((index for index, buffer in enumerate(self.buffers) if buffer.producer is None), time=0)
        for step, op in enumerate(timeline.order):
            self._allocate(allocated[step], time=step + 1)
            self._use_workspace(op, time=step + 1)
            for index in freed[step]:
                self._free(self.addresses[index], self.buffers[index].size, self._frames(index), time=step + 1)
        return {"segments": self._segments(), "device_traces": [self.events], "external_annotations": []}

    def _allocate(self, indices: Iterable[int], time: int) -> None:
        for index in indices:
            self._event("alloc", self.addresses[index], self.buffers[index].size, self._frames(index), time)

    def _use_workspace(self, op: int, time: int) -> None:
        size = self.timeline.graph.ops[op].workspace
        address = self._address(size)
        frames = [_frame(f"workspace of {self.timeline.graph.ops[op].name}")]
        self._event("alloc", address, size, frames, time)
        self._free(address, size, frames, time)

    def _free(self, address: int, size: int, frames: list[dict[str, Any]], time: int) -> None:
        self._event("free_requested", address, size, frames, time)
        self._event("free_completed", address, size, frames, time)

    def _event(self, action: str, address: int, size: int, frames: list[dict[str, Any]], time: int) -> None:
        if size:
            fields = {"addr": address, "size": size, "stream": 0, "time_us": time, "frames": frames}
            self.events.append({"action": action, **fields})

    def _segments(self) -> list[dict[str, Any]]:
        if not self.kept:
            return []
        total = sum(self.buffers[index].size for index in self.kept)
        sizes = {"total_size": total, "allocated_size": total, "active_size": total, "requested_size": total}
        place = {"device": 0, "address": self.addresses[self.kept[0]], "stream": 0, "segment_pool_id": (0, 0)}
        kind = {"segment_type": "large", "is_expandable": False, "frames": []}
        return [place | sizes | kind | {"blocks": [self._block(index) for index in self.kept]}]

    def _block(self, index: int) -> dict[str, Any]:
        size = self.buffers[index].size
        state = {"size": size, "requested_size": size, "state": "active_allocated"}
        return {"address": self.addresses[index], **state, "frames": self._frames(index)}

    def _frames(self, index: int) -> list[dict[str, Any]]:
        """What the viewer shows as the stack: the buffer, the op that made it, then the user's own line."""
        buffer, graph = self.buffers[index], self.timeline.graph
        origin = self.timeline.origins.get(buffer.name, Origin())
        maker = "an input of the graph" if buffer.producer is None else f"from {graph.ops[buffer.producer].name}"
        words = (buffer.name, type_of(origin), maker, origin.operator, origin.module)
        frames = [_frame(" ".join(filter(None, words)))]
        source = _SOURCE.match(origin.source)
        if source:
            frames.append(_frame(source["function"] or origin.source, source["file"], int(source["line"])))
        return frames

    def _address(self, size: int) -> int:
        address = self.next_address
        self.next_address += size
        return address


def _frame(name: str, filename: str = "predicted by memsched", line: int = 0) -> dict[str, Any]:
    return {"name": name, "filename": filename, "line": line}

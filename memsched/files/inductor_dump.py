"""The graph that Inductor dumps with `reorder_for_peak_memory_debug = True`, as a `Graph`.

So users can send the graph of a run that they made without memsched (torch/_inductor/memory.py,
`export_graph_for_simulator`).
"""

from __future__ import annotations

from memsched.core.graph import MAX_BYTES, Buffer, Graph, Op
from memsched.files.fields import Fields, FormatError

__all__ = ["graph_from_inductor_json"]


def graph_from_inductor_json(data: object, name: str) -> Graph:
    """The graph that Inductor dumps with `reorder_for_peak_memory_debug`; raises FormatError or GraphError.

    A node lists the buffers that it writes; a buffer lists in `deps` the buffers that its node reads.  What no node
    writes and is not listed is an input that the caller keeps: it is constant, and left out.

    `size_alloc` and `size_free` differ for the kernels with several outputs: the parent buffer allocates for all
    and frees nothing, its pieces allocate nothing and free their share.

        parent: alloc 12, free 0 ──┬─> piece 1: alloc 0, free 8       here: two buffers of 8 and 4 bytes that the
                                   └─> piece 2: alloc 0, free 4       parent's node writes and the pieces' nodes read
    """
    return _InductorDump(data).graph(name)


class _InductorDump:
    """Inductor's nodes and buffers, by name."""

    def __init__(self, data: object) -> None:
        fields = Fields("graph", data)
        self.ops = tuple(Op(node.text("name")) for node in fields.objects("nodes"))
        self.rows = list(fields.objects("buffers"))
        self.names = [row.text("name") for row in self.rows]
        self.index_of = {name: index for index, name in enumerate(self.names)}
        self.allocated = [self._size(row, "size_alloc") for row in self.rows]
        self.freed = [self._size(row, "size_free") for row in self.rows]
        self.deps = [[self.index_of[dep] for dep in row.texts("deps") if dep in self.index_of] for row in self.rows]
        self.writer: list[int | None] = [None] * len(self.rows)
        for op, node in enumerate(fields.objects("nodes")):
            for written in node.texts("buffer_names"):
                if written in self.index_of:
                    self.writer[self.index_of[written]] = op

    def graph(self, name: str) -> Graph:
        """The same as a `Graph`."""
        readers: list[set[int]] = [set() for _ in self.rows]
        for index, deps in enumerate(self.deps):
            writer = self.writer[index]
            for dep in deps:
                if writer is not None and writer != self.writer[dep]:
                    readers[dep].add(writer)
        producers = self._producers(readers)
        buffers = []
        for index, row in enumerate(self.rows):
            kept, size = row.boolean("is_output", False), self.freed[index]
            consumers = tuple(sorted(readers[index]))
            if producers[index] is None and not consumers:
                continue  # a constant
            buffers.append(Buffer(self.names[index], size, producers[index], consumers, kept))
            rest = self.allocated[index] - size
            if rest > 0:
                buffers.append(Buffer(f"{self.names[index]} (never freed)", rest, producers[index], (), True))
        return Graph(name, self.ops, tuple(buffers))

    def _producers(self, readers: list[set[int]]) -> list[int | None]:
        """Who allocates each buffer; the pieces of a parent move to the parent's node, whose buffer gets smaller."""
        producers = list(self.writer)
        for index, row in enumerate(self.rows):
            writer = self.writer[index]
            if writer is None and not row.boolean("is_input", False):
                raise FormatError(f"buffers[{index}].name: no node writes {self.names[index]!r}")
            missing = self.freed[index] - self.allocated[index]
            if missing <= 0:
                continue
            parent = next((dep for dep in self.deps[index] if self.allocated[dep] - self.freed[dep] >= missing), None)
            if writer is None or parent is None or self.allocated[index]:
                raise FormatError(f"buffers[{index}].size_free: frees {missing} bytes that nobody allocates")
            self.allocated[parent] -= missing
            self.allocated[index] = self.freed[index]
            producers[index] = self.writer[parent]
            readers[index].add(writer)
        return producers

    @staticmethod
    def _size(row: Fields, key: str) -> int:
        size = row.integer(key)
        if not 0 <= size <= MAX_BYTES:
            raise FormatError(f"{row.where}.{key}: {size} is not between 0 and 2**62 bytes")
        return size

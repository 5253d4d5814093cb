"""Which results of a traced graph become buffers, and which Inductor computes inside of their readers.

    x ──> relu ──┬──> product 1        relu is read as a whole: a buffer
                 └──> add ──> mean     add is inlined: the reduction reads relu's buffer and computes the sum itself

What is known before lowering is an approximation of what lowering does (`GraphLowering.run_node` and
`StorageBox.should_realize_on_reuse`, torch/_inductor): elementwise operators are inlined until a reader would read more
than four buffers, or needs the result whole.  The order of the graph stands for the order in which it will run.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator

from torch import fx

from memsched.inductor.rewrites.nodes import is_elementwise, is_view, storage_of

__all__ = ["Inlining", "is_part", "readers_of"]

_REDUCTIONS = frozenset({"sum", "mean", "amax", "amin", "max", "min", "var", "var_mean", "prod", "any", "all"})
"""Operators into which their input is inlined, though they are not elementwise; names of overload packets."""
_MANY_READS = 4
"""Inductor's own `realize_reads_threshold`: a result that reads more buffers is realized anyway."""


class Inlining:
    """The buffers of a graph, and who reads them.

    held: the inputs that its caller holds on to; of a backward graph those that the forward saved die inside.
    """

    def __init__(self, graph: fx.Graph) -> None:
        nodes = list(graph.nodes)
        self.place = {node: at for at, node in enumerate(nodes)}
        self._kernels = list(itertools.accumulate(map(_is_opaque, nodes)))
        backward = any("tangents" in str(node.target) for node in nodes if node.op == "placeholder")
        self.held = {node for node in nodes if node.op == "placeholder" and not (backward and _is_saved(node))}
        self._realized: set[fx.Node] = set()
        self._buffers: dict[fx.Node, frozenset[fx.Node]] = {}

    def realize(self, node: fx.Node) -> None:
        """From now on `node` is a buffer; what was known about nodes behind it may change."""
        self._realized.add(node)
        here = self.place[node]
        self._buffers = {one: reads for one, reads in self._buffers.items() if self.place[one] <= here}

    def is_inlined(self, node: fx.Node) -> bool:
        """Whether the result is computed inside of its readers: elementwise, and nobody reads it as a whole."""
        if node in self._realized or not is_elementwise(node) or not node.users:
            return False
        if any(_is_opaque(reader) for reader in readers_of(node)):
            return False
        return len(node.users) == 1 or len(self.reads(node)) <= _MANY_READS

    def kernels_between(self, first: fx.Node, second: int) -> bool:
        """Whether anything that is no fused kernel runs behind `first` and before the place `second`."""
        return self._kernels[second - 1] > self._kernels[self.place[first]]

    def reads(self, node: fx.Node) -> frozenset[fx.Node]:
        """The buffers that whoever computes `node` reads."""
        if node not in self._buffers:
            sources = map(storage_of, node.all_input_nodes)
            sets = (self.reads(one) if self.is_inlined(one) else frozenset({one}) for one in sources)
            self._buffers[node] = frozenset[fx.Node]().union(*sets)
        return self._buffers[node]

    def kernels_that_read(self, node: fx.Node, without: fx.Node | None = None) -> Iterator[fx.Node]:
        """Who reads `node`, by itself or through what is inlined, but not through `without`; each once."""
        waiting, seen = [node], {node}
        while waiting:
            for reader in readers_of(waiting.pop()):
                if reader is without or reader in seen:
                    continue
                seen.add(reader)
                if self.is_inlined(reader):
                    waiting.append(reader)
                else:
                    yield reader

    def last_read(self, node: fx.Node, without: fx.Node | None = None) -> int:
        """The place of the last of them; -1 without one."""
        return max((self.place[reader] for reader in self.kernels_that_read(node, without)), default=-1)


def readers_of(node: fx.Node) -> Iterator[fx.Node]:
    """Those who read a result, by itself or through views."""
    for user in node.users:
        if is_view(user) and user.users:
            yield from readers_of(user)
        else:
            yield user


def is_part(node: fx.Node) -> bool:
    """Whether a node takes one result of a kernel out of the tuple of all; such a result is a buffer of its own."""
    return node.target is operator.getitem


def _is_opaque(node: fx.Node) -> bool:
    """Whether the operator reads whole buffers: a product, a convolution, a call; and the output of the graph."""
    if node.op in ("placeholder", "get_attr"):
        return False
    packet = getattr(node.target, "overloadpacket", None)
    return not (
        is_view(node) or is_part(node) or is_elementwise(node) or getattr(packet, "__name__", "") in _REDUCTIONS
    )


def _is_saved(node: fx.Node) -> bool:
    """Whether an input of a backward graph dies inside of it: saved by the forward, neither parameter nor batch."""
    return not str(node.target).startswith(("primals", "tangents"))

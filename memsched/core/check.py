"""Checkers.  They share no code with what they check, need neither torch nor a solver, and run in linear time.

    check_order        an order is a permutation of the ops and respects every precedence
    check_cut          a minimum-cut certificate really proves its bound
    check_certificate  any certificate against a graph; says whether the bound is now *proved* or only *claimed*

Checkers of series-parallel trees and of forbidden subgraphs are in `memsched.core.check_tree`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memsched.core.check_tree import check_tree_bound
from memsched.core.graph import Graph
from memsched.core.result import (
    Certificate,
    CutCertificate,
    EndpointCertificate,
    StatementCertificate,
    TreeCertificate,
)

__all__ = ["CheckError", "check_certificate", "check_cut", "check_order"]


class CheckError(ValueError):
    """Something that was claimed does not hold: the message is one line that names the first offending op or field."""


def check_order(graph: Graph, order: Sequence[int]) -> None:
    """Raises CheckError unless `order` is a topological order of `graph`."""
    position: dict[int, int] = {}
    for at, op in enumerate(order):
        if not isinstance(op, int) or not 0 <= op < len(graph.ops):
            raise CheckError(f"order: entry {at} is {op!r}, not an op (there are {len(graph.ops)})")
        if op in position:
            raise CheckError(f"order: op {graph.ops[op].name!r} occurs twice")
        position[op] = at
    if len(position) < len(graph.ops):
        missing = next(op for op in range(len(graph.ops)) if op not in position)
        raise CheckError(f"order: op {graph.ops[missing].name!r} is missing")
    for before, after in _precedences(graph):
        if position[before] > position[after]:
            names = graph.ops[before].name, graph.ops[after].name
            raise CheckError(f"order: op {names[1]!r} runs before {names[0]!r}, which it needs")


def check_certificate(graph: Graph, certificate: Certificate | None, bound: int) -> bool:
    """True when `certificate` proves that no order of `graph` peaks below `bound` bytes; False when it only says so.

    Raises CheckError when the certificate is wrong or proves less than `bound`.
    """
    if certificate is None:
        return bound == 0
    if certificate.bound < bound:
        raise CheckError(f"certificate: proves {certificate.bound} bytes, the plan claims a bound of {bound}")
    match certificate:
        case EndpointCertificate():
            proved = max(graph.start_bytes, graph.end_bytes)
            if certificate.bound > proved:
                raise CheckError(f"certificate: start and end prove {proved} bytes, not {certificate.bound}")
            return True
        case CutCertificate():
            check_cut(graph, certificate)
            return True
        case TreeCertificate():
            try:
                check_tree_bound(graph, certificate)
            except ValueError as error:
                raise CheckError(f"certificate: {error}") from None
            return True
        case StatementCertificate():
            return False


def check_cut(graph: Graph, certificate: CutCertificate) -> None:
    """Raises CheckError unless the flow proves the bound at the op (the argument is in `CutCertificate`)."""
    op = certificate.op
    if not 0 <= op < len(graph.ops):
        raise CheckError(f"certificate: op {op} is not an op (there are {len(graph.ops)})")
    before = _closure(op, graph.predecessors)
    after = _closure(op, graph.successors) | {op}
    cut = _CutCheck(graph, before, after)
    proved = cut.bytes_proved(certificate) + graph.output_bytes[op] + graph.ops[op].workspace
    if certificate.bound > proved:
        raise CheckError(
            f"certificate: the flow proves {proved} bytes at {graph.ops[op].name!r}, not {certificate.bound}"
        )


class _CutCheck:
    """The ops that may or may not have run when one op starts, and what a flow over them proves."""

    def __init__(self, graph: Graph, before: set[int], after: set[int]) -> None:
        self.graph, self.before, self.after = graph, before, after

    def bytes_proved(self, certificate: CutCertificate) -> int:
        """Least live bytes of any down-set between `before` and everything that is not `after`, as the flow shows."""
        level = self.graph.start_bytes + sum(self._net_bytes(op) for op in self.before)
        freeable: dict[int, int] = {}
        for index, buffer in enumerate(self.graph.buffers):
            if buffer.kept or not buffer.consumers or not self.after.isdisjoint(buffer.consumers):
                continue
            if self.before.issuperset(buffer.consumers):
                level -= buffer.size
            else:
                freeable[index] = buffer.size
        return level - sum(freeable.values()) + self._charged(certificate, freeable)

    def _charged(self, certificate: CutCertificate, freeable: dict[int, int]) -> int:
        """Bytes that the flow charges, after every capacity and every conservation law has been checked."""
        uncharged = dict(freeable)
        charge: dict[int, int] = {}
        for index, op, amount in certificate.reader_flow:
            reads = index in uncharged and op in self.graph.buffers[index].consumers
            if amount < 0 or not reads or op in self.before:
                raise CheckError(f"certificate: reader_flow ({index}, {op}, {amount}) has no such arc")
            uncharged[index] -= amount
            if uncharged[index] < 0:
                raise CheckError(f"certificate: buffer {self.graph.buffers[index].name!r} is charged above its size")
            charge[op] = charge.get(op, 0) + amount
        for op, predecessor, amount in certificate.precedence_flow:
            known = 0 <= op < len(self.graph.ops) and predecessor in self.graph.predecessors[op]
            if amount < 0 or not known or not {op, predecessor}.isdisjoint(self.before | self.after):
                raise CheckError(f"certificate: precedence_flow ({op}, {predecessor}, {amount}) has no such arc")
            charge[op] = charge.get(op, 0) - amount
            charge[predecessor] = charge.get(predecessor, 0) + amount
        for op, amount in charge.items():
            if not 0 <= amount <= self._net_bytes(op):
                raise CheckError(f"certificate: op {self.graph.ops[op].name!r} is charged {amount} bytes")
        return sum(freeable.values()) - sum(uncharged.values())

    def _net_bytes(self, op: int) -> int:
        """What an op adds to the level: its outputs without those that die at once."""
        outputs = (self.graph.buffers[index] for index in self.graph.outputs_of[op])
        return sum(buffer.size for buffer in outputs if buffer.kept or buffer.consumers)


def _closure(op: int, neighbours: Sequence[Sequence[int]]) -> set[int]:
    """All ops that can be reached from `op`, without `op`."""
    reached: set[int] = set()
    stack = list(neighbours[op])
    while stack:
        other = stack.pop()
        if other not in reached:
            reached.add(other)
            stack.extend(neighbours[other])
    return reached


def _precedences(graph: Graph) -> Iterable[tuple[int, int]]:
    """Every (before, after) that the graph states, straight from its buffers and order edges."""
    for buffer in graph.buffers:
        if buffer.producer is not None:
            for consumer in buffer.consumers:
                yield buffer.producer, consumer
    yield from graph.order_edges

"""Checkers of bounds by maximum flow: one cut, or a chain of precedences that cuts force, up to a contradiction.

    check_cut       the flow of a `CutCertificate` proves its bound at its op: linear time
    check_forcing   so does each flow of a `ForcingCertificate`, given what the steps before it have forced: time
                    linear in the graph for each step

Suppose that some order stays below the bound B of a `ForcingCertificate`, and follow its steps:

    step 1   when u has run, starting v needs B or more        so v runs before u in that order
    step 2   when w has not run, starting x needs B or more    so w runs before x (the flow may use v -> u)
    ...
    last     starting y needs B or more, whatever has run      so there is no such order
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memsched.check.error import CheckError
from memsched.core.graph import Graph
from memsched.core.result import CutCertificate, FlowArc, ForcingCertificate

__all__ = ["check_cut", "check_forcing"]


def check_cut(graph: Graph, certificate: CutCertificate) -> None:
    """Raises CheckError unless the flow proves the bound at the op (the argument is in `CutCertificate`)."""
    _check_op(graph, certificate.op)
    before = _closure([certificate.op], graph.predecessors) - {certificate.op}
    after = _closure([certificate.op], graph.successors)
    proved = _CutCheck(graph, graph.predecessors, before, after).bytes_proved(
        certificate.reader_flow, certificate.precedence_flow
    )
    _check_bytes(graph, certificate.op, proved, certificate.bound)
    _check_down_set(graph, certificate, before, after)


def _check_down_set(graph: Graph, certificate: CutCertificate, before: set[int], after: set[int]) -> None:
    """Raises CheckError unless the ops of `down_set` can have run when the op starts, and leave that many bytes."""
    ran = set(certificate.down_set)
    if not ran <= set(range(len(graph.ops))) or not before <= ran or not ran.isdisjoint(after):
        raise CheckError("certificate: down_set is not what can have run when the op starts")
    for op in ran:
        if not ran.issuperset(graph.predecessors[op]):
            raise CheckError(f"certificate: down_set has {graph.ops[op].name!r} without what it needs")
    live = 0
    for buffer in graph.buffers:
        written = buffer.producer is None or buffer.producer in ran
        wanted = buffer.kept or not ran.issuperset(buffer.consumers)
        live += buffer.size if written and wanted else 0
    needed = live + graph.output_bytes[certificate.op] + graph.ops[certificate.op].workspace
    if needed != certificate.bound:
        raise CheckError(f"certificate: down_set leaves {needed} bytes at the op, the bound is {certificate.bound}")


def check_forcing(graph: Graph, certificate: ForcingCertificate) -> None:
    """Raises CheckError unless every step forces its precedence and the last one leaves no order below the bound."""
    predecessors = [list(ops) for ops in graph.predecessors]
    successors = [list(ops) for ops in graph.successors]
    contradiction = False
    for step in certificate.steps:
        _check_op(graph, step.op)
        earlier, later = [step.op], [step.op]
        if step.other is not None:
            _check_op(graph, step.other)
            (earlier if step.other_first else later).append(step.other)
        before = _closure(earlier, predecessors) - {step.op}
        after = _closure(later, successors)
        if step.other == step.op or not before.isdisjoint(after):
            raise CheckError(f"certificate: what is supposed at {graph.ops[step.op].name!r} is impossible anyway")
        cut = _CutCheck(graph, predecessors, before, after)
        _check_bytes(graph, step.op, cut.bytes_proved(step.reader_flow, step.precedence_flow), certificate.bound)
        if step.other is None:
            contradiction = True
            break
        first, second = (step.op, step.other) if step.other_first else (step.other, step.op)
        predecessors[second].append(first)
        successors[first].append(second)
    if not contradiction:
        raise CheckError("certificate: the forced precedences end without a contradiction")


def _check_op(graph: Graph, op: int) -> None:
    if not 0 <= op < len(graph.ops):
        raise CheckError(f"certificate: op {op} is not an op (there are {len(graph.ops)})")


def _check_bytes(graph: Graph, op: int, live: int, bound: int) -> None:
    proved = live + graph.output_bytes[op] + graph.ops[op].workspace
    if bound > proved:
        raise CheckError(f"certificate: the flow proves {proved} bytes at {graph.ops[op].name!r}, not {bound}")


class _CutCheck:
    """The ops that may or may not have run when one op starts, and what a flow over them proves."""

    def __init__(self, graph: Graph, predecessors: Sequence[Sequence[int]], before: set[int], after: set[int]) -> None:
        self.graph, self.predecessors, self.before, self.after = graph, predecessors, before, after

    def bytes_proved(self, reader_flow: Iterable[FlowArc], precedence_flow: Iterable[FlowArc]) -> int:
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
        return level - sum(freeable.values()) + self._charged(reader_flow, precedence_flow, freeable)

    def _charged(
        self, reader_flow: Iterable[FlowArc], precedence_flow: Iterable[FlowArc], freeable: dict[int, int]
    ) -> int:
        """Bytes that the flow charges, after every capacity and every conservation law has been checked."""
        uncharged = dict(freeable)
        charge: dict[int, int] = {}
        for index, op, amount in reader_flow:
            reads = index in uncharged and op in self.graph.buffers[index].consumers
            if amount < 0 or not reads or op in self.before:
                raise CheckError(f"certificate: reader_flow ({index}, {op}, {amount}) has no such arc")
            uncharged[index] -= amount
            if uncharged[index] < 0:
                raise CheckError(f"certificate: buffer {self.graph.buffers[index].name!r} is charged above its size")
            charge[op] = charge.get(op, 0) + amount
        for op, predecessor, amount in precedence_flow:
            known = 0 <= op < len(self.graph.ops) and predecessor in self.predecessors[op]
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


def _closure(ops: Iterable[int], neighbours: Sequence[Sequence[int]]) -> set[int]:
    """The ops, and all that can be reached from them."""
    stack = list(ops)
    reached = set(stack)
    while stack:
        for other in neighbours[stack.pop()]:
            if other not in reached:
                reached.add(other)
                stack.append(other)
    return reached

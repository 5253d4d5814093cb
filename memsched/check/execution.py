"""Checks worst cases of parallel executions: is the moment possible, are its bytes right, does the proof hold?

    moment      completed and started hold, with each op, everything that it needs; at most so many ops run
    proof       every multiplier belongs to a true implication; each set of started and completed ops then weighs at
                most what is left on its ops, and adding up the best of each op gives the bound

Shares no code with `memsched.search.parallel`, and needs no solver.
"""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import TopologicalSorter

from memsched.check.error import CheckError
from memsched.check.order import check_made_for, precedences_of
from memsched.core.execution import Execution, WorstCase, WorstCaseCertificate, bytes_held
from memsched.core.graph import Graph
from memsched.files.worst_case_file import WorstCaseFile

__all__ = ["check_bound_of_executions", "check_execution", "check_worst_case", "check_worst_case_file"]


def check_worst_case_file(graph: Graph, file: WorstCaseFile) -> bool:
    """`check_worst_case` of a file, which states for which graph and, with edges, under which limit it holds."""
    check_made_for(graph, "file", file.num_ops, file.graph_digest)
    if file.limit is not None and file.worst.bound > file.limit:
        raise CheckError(f"limit: the bound {file.worst.bound} is above the limit {file.limit}")
    return check_worst_case(file.graph_with_edges(graph), file.worst)


def check_worst_case(graph: Graph, worst: WorstCase) -> bool:
    """Whether the bound is proved (else it rests on a search); raises CheckError when a statement is wrong."""
    check_execution(graph, worst.execution, worst.parallel)
    held = bytes_held(graph, worst.execution)
    if held != worst.held:
        raise CheckError(f"held: the execution holds {held} bytes, the file says {worst.held}")
    if worst.bound < held:
        raise CheckError(f"bound: {worst.bound} is below the {held} bytes of a possible execution")
    check_bound_of_executions(graph, worst.certificate, worst.parallel)
    return worst.certificate.bound <= worst.bound


def check_execution(graph: Graph, execution: Execution, parallel: int | None) -> None:
    """Raises CheckError unless a run of `graph` with at most `parallel` ops at once passes through `execution`."""
    completed, started = set(execution.completed), set(execution.started)
    if not started <= set(range(len(graph.ops))):
        raise CheckError(f"started: an op is not one of the {len(graph.ops)}")
    if not completed <= started:
        raise CheckError("completed: an op has completed that has not started")
    for before, op in precedences_of(graph):
        if op in started and before not in completed:
            names = graph.ops[op].name, graph.ops[before].name
            raise CheckError(f"started: {names[0]!r} has started before {names[1]!r} has completed")
    running = len(started) - len(completed)
    if parallel is not None and running > parallel:
        raise CheckError(f"started: {running} ops run at once, at most {parallel} may")


def check_bound_of_executions(graph: Graph, certificate: WorstCaseCertificate, parallel: int | None) -> None:
    """Raises CheckError unless the certificate proves its bound for executions with at most `parallel` ops at once."""
    price = certificate.running_price
    if price < 0 or (price and parallel is None):
        raise CheckError(f"certificate: running_price {price} cannot be charged")
    ancestors = _ancestors(graph)
    started, completed, freed = _weights(graph, certificate, ancestors)
    for op, amount in certificate.completion_flow:
        _check(graph, op, amount, 0 <= op < len(graph.ops), "completion_flow")
        completed[op] -= amount
        started[op] += amount
    precedences = set(precedences_of(graph))
    for op, before, amount in certificate.precedence_flow:
        _check(graph, op, amount, (before, op) in precedences, "precedence_flow")
        started[op] -= amount
        completed[before] += amount
    for op, index, amount in certificate.freed_flow:
        _check(graph, op, amount, 0 <= op < len(graph.ops) and index in freed, "freed_flow")
        if _mask(graph.buffers[index].consumers) & ~ancestors[op]:
            raise CheckError(f"certificate: {graph.ops[op].name!r} can start with {graph.buffers[index].name!r} in use")
        started[op] -= amount
        freed[index] += amount
    proved = sum(buffer.size for buffer in graph.buffers if buffer.producer is None)
    proved += price * (parallel or 0)
    proved += sum(max(0, weight) for weights in (started, completed, freed) for weight in weights.values())
    if proved > certificate.bound:
        raise CheckError(f"certificate: proves {proved} bytes, not {certificate.bound}")


def _weights(
    graph: Graph, certificate: WorstCaseCertificate, ancestors: list[int]
) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    """What each op adds by starting and by completing, and each buffer by being freed, before anything is moved.

    A buffer that one reader outlives (all the others are its ancestors) is freed by that reader's completion.
    """
    price = certificate.running_price
    started = {op: node.workspace - price for op, node in enumerate(graph.ops)}
    completed = {op: price - node.workspace for op, node in enumerate(graph.ops)}
    freed: dict[int, int] = {}
    for index, buffer in enumerate(graph.buffers):
        if buffer.producer is not None:
            started[buffer.producer] += buffer.size
        if buffer.kept:
            continue
        users = buffer.consumers or ((buffer.producer,) if buffer.producer is not None else ())
        last = next((op for op in users if not _mask(users) & ~(ancestors[op] | 1 << op)), None)
        if last is None:
            freed[index] = -buffer.size
        else:
            completed[last] -= buffer.size
    return started, completed, freed


def _check(graph: Graph, op: int, amount: int, exists: bool, field: str) -> None:
    if amount < 0 or not exists:
        name = graph.ops[op].name if 0 <= op < len(graph.ops) else op
        raise CheckError(f"certificate: {field} has no such implication at {name!r}, of {amount} bytes")


def _ancestors(graph: Graph) -> list[int]:
    """For each op the ops that must have completed before it starts, as a bit mask."""
    before: dict[int, set[int]] = {op: set() for op in range(len(graph.ops))}
    for first, second in precedences_of(graph):
        before[second].add(first)
    masks = [0] * len(graph.ops)
    for op in TopologicalSorter(before).static_order():
        for other in before[op]:
            masks[op] |= masks[other] | 1 << other
    return masks


def _mask(ops: Iterable[int]) -> int:
    return sum(1 << op for op in ops)

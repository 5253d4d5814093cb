"""What a graph holds when several of its ops run at once: executions, their worst case, and the proof of it.

A runtime with several streams or threads starts an op when everything that it needs has completed, in any order.  A
moment of such a run is two sets of ops, each with all its ancestors: those that have *completed*, and those that have
*started*.  What has started and not completed is running; everything that a running op needs has completed.

                  ┌──X 4──> b ──Y 3──┐              completed {a}, started {a, b, c}: b and c run,
              a ──┤                  ├──> d         X, Y, Z and W are held, 4 + 3 + 2 + 5 = 14 bytes;
                  └──Z 2──> c ──W 5──┘              one at a time, b first: 4 + 2 + 3, 3 + 2 + 5: 10 bytes

A buffer is held from the start of its producer until all its readers have completed, or for ever when it is kept.  The
*worst case* is the most bytes of any moment, over all executions with at most so many ops at once.

Source: Marchal, Nagy, Simon, Vivien, "Parallel scheduling of DAGs under memory constraints" (IPDPS 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.core.result import Status

__all__ = ["Execution", "WorstCase", "WorstCaseCertificate", "bytes_held"]


@dataclass(frozen=True, slots=True)
class Execution:
    """One moment of a parallel run: the ops that have completed, and those that have started (with the completed).

    Both are sets of op numbers, increasing.
    """

    completed: tuple[int, ...]
    started: tuple[int, ...]

    @property
    def running(self) -> tuple[int, ...]:
        """The ops that have started and not completed."""
        completed = set(self.completed)
        return tuple(op for op in self.started if op not in completed)


@dataclass(frozen=True, slots=True)
class WorstCaseCertificate:
    """No execution holds more than `bound` bytes, because the multipliers below make every moment cost no more.

    Linear programming duality, which a checker follows without a solver (`memsched.check.execution`):

    running_price: bytes that each running op is charged; an execution has at most `parallel` of them.
    completion_flow: (op, bytes): an op that has completed has started.
    precedence_flow: (op, predecessor, bytes): when the op has started, the predecessor has completed.
    freed_flow: (op, buffer, bytes): when the op has started, all readers of the buffer have completed.
    """

    bound: int
    running_price: int
    completion_flow: tuple[tuple[int, int], ...]
    precedence_flow: tuple[tuple[int, int, int], ...]
    freed_flow: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The most bytes that executions of a graph hold, as far as it is known.

    parallel: how many ops may run at once; None is any number.
    execution: the moment with the most bytes that was found; `held` are its bytes.
    bound: bytes that no execution exceeds.  status: OPTIMAL when the two meet, else BOUNDED.
    certificate: proves its own `bound`; a lower `bound` rests on a search (`method`).  note: what could not be tried.
    """

    parallel: int | None
    execution: Execution
    held: int
    bound: int
    certificate: WorstCaseCertificate
    method: str
    note: str = ""

    @property
    def status(self) -> Status:
        return Status.OPTIMAL if self.held == self.bound else Status.BOUNDED


def bytes_held(graph: Graph, execution: Execution) -> int:
    """Bytes that `graph` holds at that moment, with the workspaces of what runs."""
    completed, started = set(execution.completed), set(execution.started)
    held = sum(graph.ops[op].workspace for op in started - completed)
    for buffer in graph.buffers:
        if buffer.producer is not None and buffer.producer not in started:
            continue
        last_users = buffer.consumers or (() if buffer.producer is None else (buffer.producer,))
        if buffer.kept or not completed.issuperset(last_users):
            held += buffer.size
    return held

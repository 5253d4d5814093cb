"""The worst case of parallel executions as a constraint program for OR-Tools CP-SAT: shared tensors, a limit of ops.

    (1) completed[v] => started[v] => completed[u] for every precedence u -> v: both sets hold all ancestors
    (2) held[b] => started[producer], and some reader has not completed
    (3) the sum of started[v] - completed[v] is at most `parallel`
    (4) maximize the held bytes and the workspaces of what runs

A tensor without a last reader makes (2) a disjunction, and the problem NP-hard: give every vertex of an undirected
graph an op that writes a kept byte, every edge a heavy input that both its ends read; the most bytes are then those of
an execution whose completed ops are an independent set.

CP-SAT states bounds as doubles: sizes are divided by their greatest common divisor, and a graph whose sizes add up to
more than a double adds exactly is refused.  One worker, a fixed seed and a limit in deterministic time make runs
repeatable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from memsched.core.execution import Execution
from memsched.core.graph import Graph
from memsched.search.models.model import ModelError

__all__ = ["SearchedExecution", "search_executions"]

_LARGEST_TOTAL = 1 << 50
"""Units whose sums, and the solver's own arithmetic over them, a double holds exactly."""


@dataclass(frozen=True, slots=True)
class SearchedExecution:
    """What the search found: an execution (None: none holds `at_least` bytes) and a bound on all of them, in bytes."""

    execution: Execution | None
    bound: int


def search_executions(
    graph: Graph, parallel: int | None, hint: Execution, at_least: int, at_most: int, work: float
) -> SearchedExecution:
    """The execution with the most bytes, of those that hold between `at_least` and `at_most` bytes.

    hint: an execution that the search begins with.  at_most: a proved bound; the search ends when it is met.
    work: the solver's deterministic time, about seconds.
    Raises ModelError when OR-Tools is missing or refuses the model.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise ModelError(f"OR-Tools is not installed ({error})") from None
    model = _Model(cp_model, graph, parallel, hint)
    model.program.add_linear_constraint(model.held, at_least // model.unit, at_most // model.unit)
    model.program.maximize(model.held)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = work
    status = solver.solve(model.program)
    if status == cp_model.INFEASIBLE:
        return SearchedExecution(None, at_least - 1)
    if status == cp_model.UNKNOWN:
        return SearchedExecution(None, at_most)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise ModelError(f"CP-SAT answered {solver.status_name(status)}")
    units = math.floor(solver.best_objective_bound + 0.01)
    return SearchedExecution(model.execution(solver), min(at_most, units * model.unit))


class _Model:
    """The variables and constraints (1) to (3), and the expression of (4), in units of `unit` bytes."""

    def __init__(self, cp_model: Any, graph: Graph, parallel: int | None, hint: Execution) -> None:
        sizes = [buffer.size for buffer in graph.buffers] + [op.workspace for op in graph.ops]
        self.unit = math.gcd(*sizes) or 1
        if sum(sizes) // self.unit > _LARGEST_TOTAL:
            raise ModelError(f"the sizes add up to {sum(sizes) // self.unit} units, more than CP-SAT adds exactly")
        self.program = cp_model.CpModel()
        ops = range(len(graph))
        self._completed = [self.program.new_bool_var(f"completed {op}") for op in ops]
        self._started = [self.program.new_bool_var(f"started {op}") for op in ops]
        self._add_sets(graph, hint)
        if parallel is not None:
            self.program.add(sum(self._started) - sum(self._completed) <= parallel)
        self.held = graph.start_bytes // self.unit
        for op, node in enumerate(graph.ops):
            self.held += node.workspace // self.unit * (self._started[op] - self._completed[op])
        for index, buffer in enumerate(graph.buffers):
            if buffer.size:
                self.held += buffer.size // self.unit * self._held(graph, index)

    def execution(self, solver: Any) -> Execution:
        """The execution that the solver found."""
        return Execution(
            tuple(op for op, variable in enumerate(self._completed) if solver.boolean_value(variable)),
            tuple(op for op, variable in enumerate(self._started) if solver.boolean_value(variable)),
        )

    def _add_sets(self, graph: Graph, hint: Execution) -> None:
        for op in range(len(graph)):
            self.program.add_implication(self._completed[op], self._started[op])
            for before in graph.predecessors[op]:
                self.program.add_implication(self._started[op], self._completed[before])
        completed, started = set(hint.completed), set(hint.started)
        for op in range(len(graph)):
            self.program.add_hint(self._completed[op], op in completed)
            self.program.add_hint(self._started[op], op in started)

    def _held(self, graph: Graph, index: int) -> Any:
        """1 when the buffer is held, less 1 when it is held from the start (those are counted already)."""
        buffer = graph.buffers[index]
        born = 1 if buffer.producer is None else self._started[buffer.producer]
        readers = buffer.consumers or ((buffer.producer,) if buffer.producer is not None else ())
        if buffer.kept:
            freed: Any = 0
        elif len(readers) == 1:
            freed = self._completed[readers[0]]
        else:
            freed = self.program.new_bool_var(f"freed {index}")
            self.program.add_bool_or([freed, *(self._completed[reader].negated() for reader in readers)])
        return born - freed - (buffer.producer is None)

"""The ordering problem as a constraint program for OR-Tools CP-SAT: one integer variable for each op.

    (1) _add_starts        start[v] in the window of v, all different: a permutation of the steps
    (2) _add_precedences   start[u] < start[v] for every precedence u -> v
    (3) _add_lifetimes     a buffer occupies its size from start[producer] until after the last start[consumer]
    (4) _add_lifetimes     an op occupies its workspace, and outputs that nobody reads, during its own step
    (5) _add_capacity      at every step the sum of what is occupied is at most `peak`   (cumulative constraint)
    (6) _add_capacity      floor <= peak <= peak of the incumbent; minimise `peak`

           step       0     1     2     3
           start      a     b     c     d         X: a -> b, c    Y: b -> d    Z: c -> d
           X 4        ███████████████████
           Y 1              ███████████████
           Z 2                    █████████       peak 7 at step 2

O(ops + buffers) variables where the ILP has O(ops * (ops + buffers)): the retention intervals of Moccasin
(Bartan et al., ICML 2023), without its rematerialisation.  One worker, a fixed seed and a limit in deterministic time
make runs repeatable; the incumbent is given as a hint and the proved bound as the floor of the objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.search.models.model import ModelAnswer, ModelError, ModelLimits, ModelTooLarge, Sequencing, sequencing

__all__ = ["solve_cpsat"]

_LARGEST_TOTAL = 1 << 50
"""Units that CP-SAT may be asked to add up: far below the 2**63 at which it refuses a model."""


def solve_cpsat(
    graph: Graph,
    incumbent: Sequence[int] | None,
    floor: int,
    limits: ModelLimits,
    report: Callable[[ModelAnswer], None] = lambda answer: None,
) -> ModelAnswer:
    """The best order and bound that CP-SAT finds.

    incumbent: a topological order that is the hint and the upper limit, or None.
    floor: bytes, a proved lower bound; the search ends when it is met.
    report: called with everything new while the search runs, so that nothing is lost when it is killed.
    Raises ModelError when OR-Tools is missing or refuses the model.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise ModelError(f"OR-Tools is not installed ({error})") from None
    problem = sequencing(graph, _LARGEST_TOTAL)
    if len(graph.ops) + len(graph.buffers) > limits.variables:
        raise ModelTooLarge(f"{len(graph.ops)} ops and {len(graph.buffers)} buffers")
    model = _Model(cp_model, problem, incumbent, floor)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = limits.seed
    solver.parameters.max_time_in_seconds = limits.seconds
    # presolve may otherwise probe the n^2 step literals and look for symmetries until the time is over
    solver.parameters.cp_model_probing_level = 0
    solver.parameters.symmetry_level = 0
    if limits.work < math.inf:
        solver.parameters.max_deterministic_time = limits.work
    progress = _progress_callback(cp_model, model, floor, report)
    solver.best_bound_callback = progress.new_bound
    status = solver.solve(model.model, progress)
    finished, has_order = _meaning(cp_model, status)
    bound = problem.bytes_of_bound(solver.best_objective_bound, floor) if status != cp_model.UNKNOWN else progress.bound
    order = model.order([solver.value(start) for start in model.starts]) if has_order else None
    repeatable = finished or _deterministic_seconds(solver) >= limits.work
    return ModelAnswer(order, max(bound, progress.bound), finished, repeatable)


def _meaning(cp_model: Any, status: int) -> tuple[bool, bool]:
    """(the search came to its end, there is an order) of a CP-SAT status; raises ModelError for what cannot be."""
    if status == cp_model.OPTIMAL:
        return True, True
    if status == cp_model.FEASIBLE:
        return False, True
    if status == cp_model.UNKNOWN:
        return False, False
    if status == cp_model.INFEASIBLE:
        raise ModelError("CP-SAT calls a problem infeasible that has an order")
    if status == cp_model.MODEL_INVALID:
        raise ModelError("CP-SAT calls the model invalid")
    raise ModelError(f"CP-SAT answered with the unknown status {status}")


def _deterministic_seconds(solver: Any) -> float:
    """What the search has spent of its repeatable limit."""
    return float(solver.response_proto.deterministic_time)


class _Model:
    """The variables and constraints of the module docstring."""

    def __init__(self, cp_model: Any, problem: Sequencing, incumbent: Sequence[int] | None, floor: int) -> None:
        self.problem = problem
        self.model: Any = cp_model.CpModel()
        self.intervals: list[Any] = []
        self.demands: list[int] = []
        self.starts: list[Any] = []
        self._add_starts(incumbent)
        self._add_precedences()
        self._add_lifetimes(incumbent)
        self._add_capacity(incumbent, floor)

    def order(self, steps: Sequence[int]) -> tuple[int, ...]:
        """The ops by their steps."""
        return tuple(sorted(range(len(steps)), key=steps.__getitem__))

    def _add_starts(self, incumbent: Sequence[int] | None) -> None:
        """(1)"""
        windows = zip(self.problem.earliest, self.problem.latest, strict=True)
        self.starts = [self.model.new_int_var(first, last, f"start{op}") for op, (first, last) in enumerate(windows)]
        self.model.add_all_different(self.starts)
        for step, op in enumerate(incumbent or ()):
            self.model.add_hint(self.starts[op], step)

    def _add_precedences(self) -> None:
        """(2)"""
        for op, before in enumerate(self.problem.graph.predecessors):
            for predecessor in before:
                self.model.add(self.starts[predecessor] < self.starts[op])

    def _add_lifetimes(self, incumbent: Sequence[int] | None) -> None:
        """(3), (4)"""
        graph, num_steps = self.problem.graph, len(self.problem.graph.ops)
        step_of = {op: step for step, op in enumerate(incumbent or ())}
        own_step = list(self.problem.workspaces)
        for index, buffer in enumerate(graph.buffers):
            size = self.problem.sizes[index]
            if not size:
                continue
            if not buffer.consumers and not buffer.kept:
                assert buffer.producer is not None, "a buffer without producer has a consumer"
                own_step[buffer.producer] += size
                continue
            start = 0 if buffer.producer is None else self.starts[buffer.producer]
            end: Any = num_steps
            if not buffer.kept:
                end = self.model.new_int_var(1, num_steps, f"end{index}")
                for consumer in buffer.consumers:
                    self.model.add(end > self.starts[consumer])
                if step_of:
                    self.model.add_hint(end, 1 + max(step_of[consumer] for consumer in buffer.consumers))
            length = self.model.new_int_var(1, num_steps, f"length{index}")
            self.intervals.append(self.model.new_interval_var(start, length, end, f"life{index}"))
            self.demands.append(size)
        for op, size in enumerate(own_step):
            if size:
                self.intervals.append(self.model.new_fixed_size_interval_var(self.starts[op], 1, f"run{op}"))
                self.demands.append(size)

    def _add_capacity(self, incumbent: Sequence[int] | None, floor: int) -> None:
        """(5), (6)"""
        least = self.problem.units_of_floor(floor)
        most = sum(self.demands)
        if incumbent is not None:
            most = min(most, self.problem.units_of_peak(peak_bytes(self.problem.graph, incumbent)))
        peak = self.model.new_int_var(least, max(least, most), "peak")
        self.model.add_cumulative(self.intervals, self.demands, peak)
        self.model.minimize(peak)


def _progress_callback(cp_model: Any, model: _Model, floor: int, report: Callable[[ModelAnswer], None]) -> Any:
    """A solution callback that also takes bounds.  A function, because its base class needs OR-Tools."""

    class Progress(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bound = floor
            self.order: tuple[int, ...] | None = None

        def on_solution_callback(self) -> None:
            self.order = model.order([self.value(start) for start in model.starts])
            report(ModelAnswer(self.order, self.bound, finished=False))

        def new_bound(self, units: float) -> None:
            bound = model.problem.bytes_of_bound(units, floor)
            if bound > self.bound:
                self.bound = bound
                report(ModelAnswer(self.order, self.bound, finished=False))

    return Progress()

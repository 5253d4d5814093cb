"""The 0/1 program of an ordering problem, solved by HiGHS: warm start, bound while it runs, best order at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from memsched.search.models.formulation import TOLERANCE, Formulation
from memsched.search.models.model import ModelAnswer, ModelError, ModelLimits

__all__ = ["solve_highs"]


def solve_highs(
    pulp: Any, model: Formulation, limits: ModelLimits, report: Callable[[ModelAnswer], None]
) -> ModelAnswer:
    """The best order and bound within `limits`; `report` gets each new bound.  Raises ModelError without HiGHS."""
    try:
        import highspy
    except ImportError as error:
        raise ModelError(f"HiGHS is not installed ({error})") from None
    interface = pulp.HiGHS(
        msg=False,
        threads=1,
        timeLimit=limits.seconds,
        gapRel=0.0,
        gapAbs=0.5,
        presolve="off",  # HiGHS 1.15.1 presolves a feasible model of ours to one without its optimum: test_models.py
        random_seed=limits.seed,
        mip_feasibility_tolerance=TOLERANCE,
        primal_feasibility_tolerance=TOLERANCE,
        **({"mip_max_nodes": int(limits.work * 1000)} if limits.work < math.inf else {}),
    )
    interface.createAndConfigureSolver(model.model)
    interface.buildSolverModel(model.model)
    highs = model.model.solverModel
    if model.incumbent is not None:
        values = model.value_in_incumbent()
        start = highspy.HighsSolution()
        start.col_value = [values[var.name] for var in model.model.variables()]
        highs.setSolution(start)
    floor = model.floor
    progress = _HighsProgress(model, report)
    highs.cbMipInterrupt += progress.on_interrupt
    highs.run()
    finished, may_have_order = _meaning_of_highs(highspy, highs.getModelStatus())
    info = highs.getInfo()
    has_order = may_have_order and info.primal_solution_status == int(highspy.SolutionStatus.kSolutionStatusFeasible)
    order = None
    if has_order:
        values_found = highs.getSolution().col_value
        order = model.order([[_value(var, values_found) for var in row] for row in model.done])
    bound = model.problem.bytes_of_bound(info.mip_dual_bound, floor) if math.isfinite(info.mip_dual_bound) else floor
    return ModelAnswer(order, bound, finished, finished or highs.getRunTime() < limits.seconds)


def _value(variable: Any, values: Sequence[float]) -> float:
    return float(variable) if isinstance(variable, int) else values[variable.index]


class _HighsProgress:
    """Reports HiGHS's bound while it runs."""

    def __init__(self, model: Formulation, report: Callable[[ModelAnswer], None]) -> None:
        self.model, self.report, self.bound = model, report, model.floor

    def on_interrupt(self, event: Any) -> None:
        """HiGHS calls this at many places of its search; it is only listened to."""
        units = event.data_out.mip_dual_bound
        if math.isfinite(units):
            bound = self.model.problem.bytes_of_bound(units, self.model.floor)
            if bound > self.bound:
                self.bound = bound
                self.report(ModelAnswer(None, bound, finished=False))


def _meaning_of_highs(highspy: Any, status: Any) -> tuple[bool, bool]:
    """(the search came to its end, there may be an order) of a HiGHS status; raises ModelError for the others."""
    statuses = highspy.HighsModelStatus
    if status == statuses.kOptimal:
        return True, True
    if status in (
        statuses.kTimeLimit,
        statuses.kSolutionLimit,
        statuses.kIterationLimit,
        statuses.kInterrupt,
        statuses.kHighsInterrupt,
        statuses.kMemoryLimit,
        statuses.kObjectiveBound,
        statuses.kObjectiveTarget,
        statuses.kUnknown,
    ):
        return False, True
    raise ModelError(f"HiGHS answered {status.name}")

"""The 0/1 program of an ordering problem, solved by CBC, which answers at its end and tells its bound in its log."""

from __future__ import annotations

import math
import os
import tempfile
from typing import Any

from memsched.search.models.formulation import TOLERANCE, Formulation
from memsched.search.models.model import ModelAnswer, ModelError, ModelLimits

__all__ = ["solve_cbc"]


def solve_cbc(pulp: Any, model: Formulation, limits: ModelLimits) -> ModelAnswer:
    """The best order and bound within `limits`.  Raises ModelError where CBC fails."""
    if model.incumbent is not None:
        values = model.value_in_incumbent()
        for variable in model.model.variables():
            variable.varValue = values[variable.name]
    with tempfile.TemporaryDirectory(prefix="memsched-") as folder:
        log = os.path.join(folder, "cbc.log")
        interface = pulp.PULP_CBC_CMD(
            msg=False,
            threads=None,
            timeLimit=limits.seconds,
            gapRel=0.0,
            gapAbs=0.5,
            warmStart=model.incumbent is not None,
            maxNodes=int(limits.work * 1000) if limits.work < math.inf else None,
            options=[f"randomCbcSeed {limits.seed}", f"integerTolerance {TOLERANCE}", f"primalTolerance {TOLERANCE}"],
            logPath=log,
        )
        interface.tmpDir = folder
        try:
            model.model.solve(interface)
        except pulp.PulpSolverError as error:
            raise ModelError(f"CBC failed ({error})") from None
        with open(log, errors="replace") as file:
            text = file.read()
    return _read_cbc(pulp, model, limits, text)


def _read_cbc(pulp: Any, model: Formulation, limits: ModelLimits, log: str) -> ModelAnswer:
    """CBC's answer out of the last lines of its log; its solution file does not tell the bound."""
    result = _log_field(log, "Result -")
    finished, clock = _meaning_of_cbc(result)
    has_order = model.model.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    order = None
    if has_order:
        rows = [[float(var) if isinstance(var, int) else var.varValue or 0.0 for var in row] for row in model.done]
        order = model.order(rows)
    bound_text = _log_field(log, "Objective value:" if finished else "Lower bound:")
    units = float(bound_text.split()[0]) if bound_text else -math.inf
    bound = model.problem.bytes_of_bound(units, model.floor) if math.isfinite(units) else model.floor
    return ModelAnswer(order, bound, finished, not clock)


def _meaning_of_cbc(result: str) -> tuple[bool, bool]:
    """(the search came to its end, the clock stopped it) of the "Result" line of CBC's log."""
    match result.strip().rstrip("."):
        case "Optimal solution found" | "Optimal solution found (within gap tolerance)":
            return True, False
        case "Stopped on node limit" | "Stopped on iteration limit" | "Stopped on solution limit":
            return False, False
        case "Stopped on time limit" | "User ctrl-cuser ctrl-c":
            return False, True
        case other:
            raise ModelError(f"CBC answered {other!r}")


def _log_field(log: str, label: str) -> str:
    """What follows the last `label` at the start of a line, or nothing."""
    lines = [line[len(label) :] for line in log.splitlines() if line.startswith(label)]
    return lines[-1].strip() if lines else ""

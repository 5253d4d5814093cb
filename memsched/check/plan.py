"""Is a plan out of a file what it says?  Every number of it is a claim: order, peak, bound, status, certificate."""

from __future__ import annotations

from memsched.check.certificate import check_certificate
from memsched.check.error import CheckError
from memsched.check.order import check_made_for, check_order
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.core.result import Status
from memsched.files.plan_file import Plan

__all__ = ["check_plan"]


def check_plan(graph: Graph, plan: Plan) -> bool:
    """Whether the plan's bound is proved (else it is only claimed); raises CheckError when the plan is wrong."""
    check_made_for(graph, "plan", plan.num_ops, plan.graph_digest)
    check_order(graph, plan.order)
    peak = peak_bytes(graph, plan.order)
    if plan.peak != peak:
        raise CheckError(f"peak: the order needs {peak} bytes, the plan says {plan.peak}")
    if plan.lower_bound > peak:
        raise CheckError(f"lower_bound: {plan.lower_bound} is above the peak {peak}")
    if plan.certificate is not None and plan.certificate.bound > peak:
        raise CheckError(f"certificate: its bound {plan.certificate.bound} is above the peak {peak} of a valid order")
    gap = peak / plan.lower_bound - 1 if plan.lower_bound else None
    if plan.states_gap and plan.gap != gap:
        raise CheckError(f"gap: {plan.gap} is not peak / lower_bound - 1, which is {gap}")
    if plan.status == Status.OPTIMAL.value and plan.lower_bound != peak:
        raise CheckError(f"status: optimal, but the bound {plan.lower_bound} is below the peak {peak}")
    return check_certificate(graph, plan.certificate, plan.lower_bound)

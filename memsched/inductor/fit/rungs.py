"""From the plans of a step to a rung of the ladder.

A step peaks in the graph that needs most.  Its moment, and the largest tensor that is alive there, are what a reader
wants to know, and what decides which lever is tried next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from memsched.core.peak import live_buffers, memory_profile
from memsched.core.result import Status
from memsched.core.sizes import format_bytes
from memsched.inductor.failures import RESTARTS, reason_of
from memsched.inductor.train_step.report import StepReport
from memsched.levers.ladder import Rung
from memsched.levers.moments import Moment, moment_of
from memsched.levers.setting import Setting
from memsched.levers.step_moments import StepMoment, peak_moment
from memsched.records.origin import Origin
from memsched.records.report import GraphReport
from memsched.records.step import OptimizerStep

__all__ = ["planned_rung", "planned_step_rung", "rung_of", "rung_of_step", "with_update"]

T = TypeVar("T")


def planned_rung(setting: Setting, plan: Callable[[], Sequence[GraphReport]]) -> Rung:
    """The rung of `setting`, whose graphs `plan` plans.

    Raises:
        ValueError: they cannot be planned; one line that names the setting.
    """
    return rung_of(setting, _planned(setting, plan))


def planned_step_rung(setting: Setting, plan: Callable[[], StepReport]) -> Rung:
    """The same for a step in one graph, whose report knows where its backward begins; raises ValueError, too."""
    report = _planned(setting, plan)
    return rung_of_step(setting, report.plan, report.moments)


def rung_of_step(setting: Setting, plan: GraphReport, moments: Sequence[StepMoment]) -> Rung:
    """The rung of a step in one graph, and where in it the peak is; raises ValueError as `rung_of`."""
    return replace(rung_of(setting, [plan]), moment=peak_moment(moments))


def _planned(setting: Setting, plan: Callable[[], T]) -> T:
    try:
        return plan()
    except (ValueError, *RESTARTS):
        raise
    except Exception as error:
        raise ValueError(f"{setting}: {reason_of(error.__cause__ or error)}") from error


def rung_of(setting: Setting, reports: Sequence[GraphReport]) -> Rung:
    """The rung of `setting`, under which the graphs of a step were planned as `reports`.

    Raises:
        ValueError: no graph was planned, or one was left to stock, whose bytes nobody knows.
    """
    left = next((report for report in reports if report.graph is None), None)
    if left is not None or not reports:
        raise ValueError(f"{setting}: " + (f"{left.name} is left to stock" if left else "no graph was planned"))
    highest = max(reports, key=lambda report: report.peak)
    return Rung(
        setting=setting,
        peak=highest.peak,
        stock_peak=max(report.stock_peak for report in reports),
        bound=highest.lower_bound,
        status=str(highest.status),
        moment=moment_of(highest),
        kernels=sum(report.kernels for report in reports),
        flops=sum(report.flops for report in reports),
        moved=sum(report.moved for report in reports),
        graph=highest.name,
        blame=_largest_alive(highest),
    )


def _largest_alive(report: GraphReport) -> str:
    """The largest tensor that is alive at the peak: its bytes, its line, else its operator or name."""
    graph, schedule = report.graph, report.schedule
    if graph is None or schedule is None:
        return ""
    step = memory_profile(graph, schedule.order).peak_step
    alive = [graph.buffers[index] for index in live_buffers(graph, schedule.order, step)]
    if not alive:
        return ""
    largest = max(alive, key=lambda buffer: (buffer.size, buffer.name))
    origin = report.origins.get(largest.name, Origin())
    return f"{format_bytes(largest.size)} of {origin.source or origin.operator or largest.name}"


def with_update(rung: Rung, update: OptimizerStep | None) -> Rung:
    """`rung` with the optimizer's own step behind its graphs, which no lever lowers; peaks there if that needs more.

    The bound stays that of the graphs, which the step does not undercut either; that it is met is no longer said.
    """
    if update is None or update.transients <= rung.peak:
        return rung
    status = str(Status.BOUNDED) if rung.status == Status.OPTIMAL else rung.status
    return replace(rung, peak=update.transients, status=status, moment=Moment.UPDATE, graph="", blame="every gradient")

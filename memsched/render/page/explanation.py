"""An explanation as one HTML page: what the step holds, what would lower it, and the plans of every compiled graph."""

from __future__ import annotations

from html import escape

from memsched.check.certificate import check_certificate
from memsched.check.error import CheckError
from memsched.core.sizes import InputError, format_bytes
from memsched.records.explanation import Explanation
from memsched.records.report import GraphReport
from memsched.records.step import MeasuredCurve, PlannedStep
from memsched.render.exhibit import Exhibit
from memsched.render.page.html import render_html
from memsched.render.text.phrases import advice_lines, step_rows
from memsched.render.timeline import Timeline, timeline_of

__all__ = ["exhibit_of", "render_explanation_page"]


def render_explanation_page(explanation: Explanation, title: str = "") -> str:
    """The page; raises InputError when no graph has a plan to draw."""
    planned = explanation.planned or PlannedStep(())
    stock = {report.name: report for report in planned.stock}
    exhibits = [
        exhibit_of(report, stock.get(report.name), planned.measured.get(report.name))
        for report in planned.reports
        if report.graph is not None
    ]
    if not exhibits:
        raise InputError("there is nothing to draw: no graph has a plan")
    return render_html(exhibits, title, _about(explanation))


def exhibit_of(report: GraphReport, stock: GraphReport | None = None, measured: MeasuredCurve | None = None) -> Exhibit:
    """The plan of a report, with stock's and what was measured beside it; the report must have a plan."""
    assert report.graph is not None and report.schedule is not None
    certificate, bound = report.schedule.certificate, report.schedule.lower_bound
    try:
        proved = check_certificate(report.graph, certificate, bound)
    except CheckError:
        proved = False
    timelines = [_timeline(report, f"memsched ({report.method})")]
    if stock is not None and stock.graph is not None:
        timelines.insert(0, _timeline(stock, "stock Inductor"))
    return Exhibit(timelines, bound if certificate else None, certificate, proved, report.refusals, measured)


def _timeline(report: GraphReport, title: str) -> Timeline:
    assert report.graph is not None and report.schedule is not None
    return timeline_of(report.graph, report.schedule.order, title, report.origins)


def _about(explanation: Explanation) -> str:
    """The step and the advice as markup."""
    step = explanation.step
    if step is None:
        memory = f"<p>The step: {escape(explanation.step_note)}.</p>"
    else:
        rows = "".join(
            f"<tr><th scope='row'>{escape(label)}</th><td>{escape(text)}</td></tr>" for label, text in step_rows(step)
        )
        memory = (
            f"<p>{escape(format_bytes(step.total))} at its highest point, in {escape(step.graph)}.</p>"
            f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'
        )
    advice = "".join(f"<li>{escape(line)}</li>" for line in advice_lines(explanation))
    return (
        f'<section aria-labelledby="step-memory"><h2 id="step-memory">The step</h2>{memory}</section>'
        f'<section aria-labelledby="advice"><h2 id="advice">What would lower it</h2><ul>{advice}</ul></section>'
    )

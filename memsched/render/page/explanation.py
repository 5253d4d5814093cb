"""An explanation as one HTML page: what the step holds, what would lower it, and the plans of every compiled graph."""

from __future__ import annotations

from html import escape

from memsched.check.certificate import check_certificate
from memsched.check.error import CheckError
from memsched.core.sizes import InputError
from memsched.records.explanation import Explanation
from memsched.records.report import GraphReport
from memsched.records.step import MeasuredCurve, PlannedStep
from memsched.render.exhibit import Exhibit
from memsched.render.page.html import render_html
from memsched.render.page.step_picture import step_bar, step_curve
from memsched.render.text.answer import headline
from memsched.render.text.phrases import advice_lines
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
    return render_html(exhibits, title, _answer(explanation), _advice(explanation))


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


def _answer(explanation: Explanation) -> str:
    """How much the step needs, when, and of what it is made, as markup."""
    lines = [*headline(explanation), *filter(None, [explanation.note])]
    words = "".join(f"<p>{escape(line)}</p>" for line in lines)
    if explanation.step is None or explanation.planned is None:
        return f"{words}<p>The step: {escape(explanation.step_note)}.</p>"
    legend = (
        '<p class="legend" aria-hidden="true"><span class="swatch ours"></span>with memsched '
        '<span class="swatch other"></span>stock Inductor <span class="swatch base"></span>held by the caller</p>'
    )
    drawn = f'<h2 id="step-memory">The step</h2>{legend}{step_curve(explanation.planned)}{step_bar(explanation.step)}'
    return f'{words}<section aria-labelledby="step-memory">{drawn}</section>'


def _advice(explanation: Explanation) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in advice_lines(explanation))
    return f'<section aria-labelledby="advice"><h2 id="advice">What would lower it</h2><ul>{lines}</ul></section>'

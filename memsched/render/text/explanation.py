"""Why a step of a model peaks where it does: the tensors, the lines of code, the bound, and what would lower it.

    step             0   1   2   3   4          the peak is 7, at step 2, run by op c
    X  a -> b, c     ├───────┤                  read by the op at the peak
    Y  b -> e            ├───────────┤          idle: written before, read later.  It would have to go, or be smaller
    Z  c -> e                ├───────┤          written by the op at the peak

Everything is computed from a plan: the live tensors by replay; what is gained *without* a tensor by replaying the same
order without it (another order might do better still); the rest is quoted from plans of the changed step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memsched.check.certificate import check_certificate
from memsched.check.error import CheckError
from memsched.core.result import Certificate, CutCertificate, ForcingCertificate
from memsched.records.explanation import Explanation, GraphExplanation, LiveTensor, PricedFusion, StepMemory
from memsched.records.origin import Origin, Role
from memsched.records.report import GraphKind, GraphReport
from memsched.records.step import MeasuredCurve, PlannedStep
from memsched.render.text.answer import render_answer
from memsched.render.text.phrases import render_explanation
from memsched.render.text.words import certificate_words, clipped
from memsched.render.timeline import Timeline, timeline_of

__all__ = ["explain_graph", "explain_step"]

_FUSIONS_KEPT = 10


def explain_step(planned: PlannedStep) -> Explanation:
    """Put a planned step into words; no torch, well under a second for 1,000 ops."""
    stock = {report.name: report for report in planned.stock}
    graphs = tuple(
        explain_graph(report, stock.get(report.name), planned.measured.get(report.name)) for report in planned.reports
    )
    step, note = _step_memory(planned, graphs)
    found = Explanation(graphs, step, note, planned.experiments, planned.device, planned.note, planned)
    return replace(found, answer=render_answer(found), details=render_explanation(found))


def explain_graph(
    report: GraphReport, stock: GraphReport | None = None, measured: MeasuredCurve | None = None
) -> GraphExplanation:
    """Explain one graph, with stock's plan of it and what was measured beside, if there is any."""
    graph, schedule = report.graph, report.schedule
    if graph is None or schedule is None:
        return _unexplained(report)
    timeline = timeline_of(graph, schedule.order, report.name, report.origins)
    step = timeline.profile.peak_step
    tensors = tuple(_live_tensors(timeline, step))
    idle = [tensor for tensor in tensors if not tensor.touched]
    peak_op, bound_op = schedule.order[step], _enforcing_op(schedule.certificate)
    return GraphExplanation(
        name=report.name,
        kind=report.kind,
        ops=report.ops,
        kernels=report.kernels,
        peak=timeline.profile.peak,
        peak_step=step,
        peak_op=graph.ops[peak_op].name,
        peak_source=_op_source(timeline, peak_op),
        tensors=tensors,
        stock_peak=stock.peak if stock else None,
        stock_kernels=stock.kernels if stock else report.stock_kernels,
        same_nodes_peak=report.stock_peak if report.orders_peak is None else report.orders_peak,
        lower_bound=schedule.lower_bound,
        gap=schedule.gap,
        status=schedule.status.value,
        bound_op="" if bound_op is None else graph.ops[bound_op].name,
        bound_source="" if bound_op is None else _op_source(timeline, bound_op),
        bound_words=_bound_words(timeline, schedule.certificate, schedule.lower_bound),
        next_to_go=min(idle, key=lambda tensor: (tensor.without, -tensor.size, tensor.name)).name if idle else "",
        refused=tuple(_priced_fusions(timeline, report)),
        fusions_refused=report.fusions_refused,
        measured_peak=measured.peak if measured else None,
    )


def _unexplained(report: GraphReport) -> GraphExplanation:
    """A graph that was left to stock: nothing is known but its name and why."""
    return GraphExplanation(
        *(report.name, report.kind, report.ops, report.kernels, 0, 0, "", "", (), None, None, 0, 0, 0.0),
        *(report.status, "", "", "", "", (), 0),
        fallback=report.fallback or "no plan was kept",
    )


# ---- what is alive, and why


def _live_tensors(timeline: Timeline, step: int) -> list[LiveTensor]:
    graph, peaks = timeline.graph, timeline.profile.step_peaks
    position = {op: at for at, op in enumerate(timeline.order)}
    before, after = _running_maxima(peaks)
    tensors = []
    for index in timeline.live_at(step):
        buffer, lifetime = graph.buffers[index], timeline.lifetimes[index]
        first, last = max(lifetime.first, 0), min(lifetime.last, len(peaks) - 1)
        inside = max(peaks[first : last + 1]) - buffer.size
        readers = sorted(position[op] for op in buffer.consumers)
        touched = lifetime.first == step or step in readers
        why = _why_alive(timeline, index, step, readers)
        origin = timeline.origins.get(buffer.name, Origin())
        without = max(before[first], inside, after[last + 1])
        tensors.append(
            LiveTensor(buffer.name, buffer.size, origin, lifetime.first, lifetime.last, touched, why, without)
        )
    return tensors


def _running_maxima(peaks: Sequence[int]) -> tuple[list[int], list[int]]:
    """before[i] is the largest of peaks[:i], after[i] of peaks[i:]; 0 of nothing."""
    before, after = [0], [0]
    for peak in peaks:
        before.append(max(before[-1], peak))
    for peak in reversed(peaks):
        after.append(max(after[-1], peak))
    return before, after[::-1]


def _why_alive(timeline: Timeline, index: int, step: int, readers: Sequence[int]) -> str:
    """Who has written, reads or keeps the buffer, as seen from `step`."""
    buffer, lifetime = timeline.graph.buffers[index], timeline.lifetimes[index]
    reasons = []
    if lifetime.first == step:
        reasons.append("written by the op at the peak")
    elif step in readers:
        reasons.append("read by the op at the peak")
    later = [reader for reader in readers if reader > step]
    if later:
        last = timeline.order[later[-1]]
        source = _op_source(timeline, last)
        ends = f"step {later[0]}" if len(later) == 1 else f"steps {later[0]} to {later[-1]}"
        name = clipped(timeline.graph.ops[last].name, 40)
        reasons.append(f"needed by {ends}, last by {name}" + (f" ({source})" if source else ""))
    if buffer.kept:
        role = timeline.origins.get(buffer.name, Origin()).role
        reasons.append(f"kept to the end: {role or 'the caller holds it'}")
    return "; ".join(reasons) or "nothing reads it any more"


def _op_source(timeline: Timeline, op: int) -> str:
    """The line of the largest buffer that the op writes."""
    outputs = timeline.graph.outputs_of[op]
    if not outputs:
        return ""
    largest = max(outputs, key=lambda index: (timeline.graph.buffers[index].size, -index))
    return timeline.origins.get(timeline.graph.buffers[largest].name, Origin()).source


def _enforcing_op(certificate: Certificate | None) -> int | None:
    """The op that no order can run below the bound, where the certificate is about one op."""
    match certificate:
        case CutCertificate():
            return certificate.op
        case ForcingCertificate(steps=(*_, last)):
            return last.op
        case _:
            return None


def _bound_words(timeline: Timeline, certificate: Certificate | None, bound: int) -> str:
    graph = timeline.graph
    try:
        proved = check_certificate(graph, certificate, bound)
    except CheckError:
        proved = False
    return certificate_words(graph, certificate, proved)


# ---- fusions


def _priced_fusions(timeline: Timeline, report: GraphReport) -> list[PricedFusion]:
    """The dearest refusals; ops before fusion are found in the names of the fused ops, which list them."""
    fused = {part: op for op, node in enumerate(timeline.graph.ops) for part in node.name.split("_")}
    fusions = []
    for refusal in report.refusals[:_FUSIONS_KEPT]:
        sides = [_side(timeline, fused, ops) for ops in (refusal.ops, refusal.other)]
        fusions.append(PricedFusion(sides[0], sides[1], refusal.price, refusal.traffic))
    return fusions


def _side(timeline: Timeline, fused: dict[str, int], ops: Sequence[str]) -> str:
    sources = (_op_source(timeline, fused[op]) for op in ops if op in fused)
    source = next(filter(None, sources), "")
    names = clipped("_".join(ops), 40)
    return f"{names} ({source})" if source else names


# ---- the step


def _step_memory(planned: PlannedStep, graphs: Sequence[GraphExplanation]) -> tuple[StepMemory | None, str]:
    """The decomposition of the step's peak; None, and why, where the graphs cannot be added up."""
    kinds = [report.kind for report in planned.reports]
    parts = sum(kind is not GraphKind.BACKWARD for kind in kinds)
    if any(report.graph is None for report in planned.reports):
        return None, "not added up: a graph was left to stock"
    if not planned.step_known:
        return None, "not added up: a file holds one graph, and not what the caller holds"
    if kinds not in (["forward", "backward"], ["inference"], ["forward"], ["step"]):
        return None, f"not added up: the model breaks into {parts} graphs, and what lives between them is not known"
    highest = max(graphs, key=lambda graph: graph.peak)
    gradients = sum(t.size for t in highest.tensors if Role.GRADIENT in t.origin.role)
    saved = sum(t.size for t in highest.tensors if t.origin.role & Role.SAVED and Role.GRADIENT not in t.origin.role)
    workspace = highest.peak - sum(tensor.size for tensor in highest.tensors)
    transients = highest.peak - gradients - saved - workspace
    return StepMemory(highest.name, planned.held, gradients, saved, transients, workspace), ""

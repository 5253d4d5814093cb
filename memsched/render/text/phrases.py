"""An explanation as text: one block for each graph, then the step, then what would lower it.

backward 0: 162 ops, 158 kernels
  peak                181.3 KiB at step 97, op31: model.py:41 in forward: F.gelu(x)
  stock Inductor      220.0 KiB with 150 kernels
  lower bound         181.3 KiB, gap 0.0%, optimal
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from memsched.core.result import Status
from memsched.core.sizes import format_bytes
from memsched.records.explanation import Explanation, GraphExplanation, LiveTensor, StepMemory
from memsched.records.origin import Role
from memsched.records.step import Experiment
from memsched.render.text.words import clipped, type_of

__all__ = ["advice_lines", "render_explanation", "render_tensor", "step_rows"]

_TENSORS_SHOWN = 12
_FUSIONS_SHOWN = 3
_LABEL = 22
_NO_OPTIMIZER = "unknown, no optimizer was given"


def render_explanation(explanation: Explanation) -> str:
    """The whole explanation; ends without a line break."""
    lines: list[str] = []
    for graph in explanation.graphs:
        lines += [*_graph_lines(graph), ""]
    lines += _step_lines(explanation.step, explanation.step_note)
    lines += ["", "what would lower it", *(f"  {line}" for line in advice_lines(explanation))]
    return "\n".join(lines)


def render_tensor(tensor: LiveTensor) -> Iterator[str]:
    """One live tensor: its size and line, then why it is alive."""
    origin = tensor.origin
    where = " in ".join(filter(None, (origin.operator, origin.module)))
    yield f"    {format_bytes(tensor.size):>12}  {type_of(origin) or tensor.name}  {where}".rstrip()
    yield f"    {'':>12}  {origin.source or 'no source line'}"
    uses = f"{_step(tensor.first)} to {'the end' if 'kept to the end' in tensor.alive else f'step {tensor.last}'}"
    yield f"    {'':>12}  {tensor.name}, {uses}: {tensor.alive}"


def _step(step: int) -> str:
    return "from the start" if step < 0 else f"from step {step}"


def _row(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}".rstrip()


def _graph_lines(graph: GraphExplanation) -> Iterator[str]:
    if graph.fallback:
        yield f"{graph.name}: {graph.ops} ops, left to stock: {graph.fallback}"
        return
    yield f"{graph.name}: {graph.ops} ops, {graph.kernels} kernels, {graph.fusions_refused} fusions refused"
    at = f"at step {graph.peak_step}, {clipped(graph.peak_op, 40)}"
    yield _row("peak", f"{format_bytes(graph.peak)} {at}" + (f": {graph.peak_source}" if graph.peak_source else ""))
    if graph.measured_peak is not None:
        error = f", {graph.measured_peak / graph.peak - 1:+.1%}" if graph.peak else ""
        yield _row("measured", f"{format_bytes(graph.measured_peak)}{error}")
    if graph.stock_peak is not None:
        kernels = f" with {graph.stock_kernels} kernels" if graph.stock_kernels is not None else ""
        yield _row("stock Inductor", f"{format_bytes(graph.stock_peak)}{kernels}")
    yield _row("stock's best order", f"{format_bytes(graph.same_nodes_peak)} of the same kernels")
    yield _row("lower bound", f"{format_bytes(graph.lower_bound)}, gap {graph.gap:.1%}, {graph.status}")
    yield _row("", graph.bound_words)
    if graph.bound_source:
        yield _row("", f"That op is {graph.bound_source}")
    yield f"  live at the peak: {len(graph.tensors)} tensors"
    for tensor in graph.tensors[:_TENSORS_SHOWN]:
        yield from render_tensor(tensor)
    rest = graph.tensors[_TENSORS_SHOWN:]
    if rest:
        yield f"    {format_bytes(sum(tensor.size for tensor in rest)):>12}  in {len(rest)} smaller ones"


def _step_lines(step: StepMemory | None, note: str) -> Iterator[str]:
    if step is None:
        yield f"the step: {note}"
        return
    yield f"the step peaks at {format_bytes(step.total)}, in {step.graph}"
    for label, text in step_rows(step):
        yield _row(label, text)


def step_rows(step: StepMemory) -> Iterator[tuple[str, str]]:
    """What the bytes at the highest point of the step are, part by part."""
    for name, size in step.parts:
        if size is None:
            yield name, _NO_OPTIMIZER
        elif size or name != "gradients before":
            yield name, format_bytes(size)


def advice_lines(explanation: Explanation) -> Iterator[str]:
    """What would lower the peaks, computed; one sentence each."""
    for graph in explanation.graphs:
        if not graph.fallback:
            yield from _graph_advice(graph)
    peaks = {graph.name: graph.peak for graph in explanation.graphs}
    for experiment in explanation.experiments:
        yield _experiment_words(experiment, peaks)


def _graph_advice(graph: GraphExplanation) -> Iterator[str]:
    name = graph.name
    if graph.status == Status.OPTIMAL:
        yield f"{name}: the bound is met, no order of these kernels needs less; the graph itself must change."
    else:
        most = format_bytes(graph.peak - graph.lower_bound)
        yield f"{name}: another order could save at most {most}."
    tensor = next((tensor for tensor in graph.tensors if tensor.name == graph.next_to_go), None)
    if tensor is None:
        yield f"{name}: every tensor at the peak is read or written there."
    else:
        saved = format_bytes(graph.peak - tensor.without)
        yield f"{name}: next to go is {tensor.name}, {_place(tensor)}: without it this order needs {saved} less."
        yield f"{name}: {_remedy(tensor, graph.status == Status.OPTIMAL)}"
    for fusion in graph.refused[:_FUSIONS_SHOWN]:
        saved = f" and save moving {format_bytes(fusion.traffic)}" if fusion.traffic else ""
        yield f"{name}: refused, would cost {format_bytes(fusion.price)}{saved}: {fusion.first} with {fusion.second}"


def _remedy(tensor: LiveTensor, optimal: bool) -> str:
    """What kind of change can remove a tensor from the peak; follows from its role and from where it comes."""
    if tensor.origin.role & Role.SAVED and tensor.first < 0:
        return "the forward saved it, and its last reader frees it: recomputing it (a checkpoint) would lower this."
    if tensor.origin.role & Role.SAVED:
        return "no order can free it there, it is saved for the backward: recomputing it (a checkpoint) would."
    if tensor.origin.role:
        return f"no order can free it there once it is written, it is kept: {tensor.origin.role}."
    if optimal:
        return "no order of these kernels does without it there: it would have to be smaller, or made in parts."
    return "an order that runs its readers before the peak, or it after the peak, would free it."


def _place(tensor: LiveTensor) -> str:
    return f"{format_bytes(tensor.size)} of {tensor.origin.source or tensor.origin.operator or 'unknown origin'}"


def _experiment_words(experiment: Experiment, peaks: Mapping[str, int]) -> str:
    if experiment.failure:
        return f"{experiment.change}: not computed, {experiment.failure}"
    changes = [
        f"{name} {format_bytes(peak)}" + (f" ({peak / peaks[name] - 1:+.1%})" if peaks.get(name) else "")
        for name, peak in experiment.peaks.items()
    ]
    return f"{experiment.change}: {_listed(changes)}"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "no graph"

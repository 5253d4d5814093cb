"""The answer to "why does it peak, and what can I do?", on one screen.

The step needs 5.58 MiB with backend="memsched", 5.93 MiB under stock Inductor.
It peaks in backward 0, at lm.py:22 in forward: return F.cross_entropy(...)

  alive there       share
  1.95 MiB            46%  1 tensor   head                lm.py:22
  1.02 MiB            24%  4 tensors  blocks.*.up         lm.py:14
  ...
what lowers the step
  -2.00 MiB          -36%  checkpointing each of the 2 blocks of 'blocks'

Tensors of one place in repeated modules are one row: `blocks.0.up` and `blocks.1.up` are `blocks.*.up`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memsched.core.sizes import format_bytes
from memsched.records.explanation import Explanation, GraphExplanation, LiveTensor
from memsched.records.origin import Role
from memsched.records.step import OptimizerStep
from memsched.render.text.words import clipped

__all__ = ["Group", "groups_of", "headline", "render_answer"]

_ROWS = 8
_CURES = 6
_WIDTH = 80
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A component of a module path that is a number."""


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors of one place: `where`, a module with `*` for numbers, or an operator; `line` of the largest of them."""

    where: str
    line: str
    size: int
    count: int


def groups_of(tensors: Sequence[LiveTensor]) -> list[Group]:
    """The tensors by place, the most bytes first."""
    places: dict[str, list[LiveTensor]] = {}
    for tensor in tensors:
        places.setdefault(_place(tensor), []).append(tensor)
    groups = []
    for where, some in places.items():
        largest = max(some, key=lambda tensor: (tensor.size, tensor.name))
        groups.append(Group(where, _line_of(largest), sum(tensor.size for tensor in some), len(some)))
    return sorted(groups, key=lambda group: (-group.size, group.where))


def render_answer(explanation: Explanation) -> str:
    """One screen, 80 columns; ends without a line break.  Empty where nothing was planned."""
    planned = [graph for graph in explanation.graphs if not graph.fallback]
    if not planned:
        return ""
    highest = max(planned, key=lambda graph: graph.peak)
    lines = [*headline(explanation), "", *_where(highest), *_saved(planned)]
    cures = list(_cures(explanation, planned))
    if cures:
        lines += ["", "what lowers it", *cures]
    if explanation.note:
        lines += ["", *textwrap.wrap(explanation.note, _WIDTH)]
    return "\n".join(lines) + "\n"


def headline(explanation: Explanation) -> list[str]:
    """The lines before the table: how much, and when; nothing where nothing was planned."""
    planned = [graph for graph in explanation.graphs if not graph.fallback]
    if not planned:
        return []
    return [*_how_much(explanation, planned), *_when(max(planned, key=lambda graph: graph.peak))]


def _how_much(explanation: Explanation, planned: Sequence[GraphExplanation]) -> Iterator[str]:
    step = explanation.step
    held = step.held.total if step is not None else 0
    ours = max(graph.peak for graph in planned) + held
    stocks = [graph.stock_peak for graph in planned if graph.stock_peak is not None]
    what = "The step" if step is not None else "The largest graph"
    yield f'{what} needs {format_bytes(ours)} with backend="memsched"' + ("," if stocks else ".")
    if stocks:
        yield f"{format_bytes(max(stocks) + held)} under stock Inductor."
    if held and step is not None:
        rows = (("parameters", step.held.parameters), ("optimizer state", step.held.optimizer_state or 0))
        some = ", ".join(f"{name} {format_bytes(size)}" for name, size in rows if size)
        yield f"{format_bytes(held)} of that are held whatever runs: {some or 'the batch'}."
    if step is not None and step.held.update is not None:
        yield from _update(step.held.update, held, ours)


def _update(update: OptimizerStep, held: int, step: int) -> Iterator[str]:
    """The optimizer's own step, if that is where most is needed."""
    needed = held + update.transients
    if needed > step:
        own = format_bytes(update.temporaries)
        yield f"optimizer.step() then needs {format_bytes(needed)}: every gradient, and {own} of its own."
        yield "memsched.train_step updates each parameter when its gradient is there."


def _when(highest: GraphExplanation) -> Iterator[str]:
    yield f"It peaks in {highest.name}" + (", at" if highest.peak_source else f", at step {highest.peak_step}.")
    if highest.peak_source:
        yield f"  {clipped(highest.peak_source, _WIDTH - 2)}"


def _where(highest: GraphExplanation) -> Iterator[str]:
    yield f"  {'alive there':<12} {'share':>6}"
    groups = groups_of(highest.tensors)
    for group in groups[:_ROWS]:
        yield _row(group.size, highest.peak, group.count, f"{clipped(group.where, 30):<31}{group.line}")
    rest = groups[_ROWS:]
    if rest:
        count = sum(group.count for group in rest)
        yield _row(sum(group.size for group in rest), highest.peak, count, f"in {len(rest)} other places")
    scratch = highest.peak - sum(tensor.size for tensor in highest.tensors)
    if scratch > 0:
        yield f"  {format_bytes(scratch):<12} {scratch / highest.peak:>6.0%}  scratch of the operator that runs"


def _row(size: int, peak: int, count: int, text: str) -> str:
    tensors = f"{count} tensor{'s' if count > 1 else ''}"
    line = f"  {format_bytes(size):<12} {size / peak if peak else 0:>6.0%}  {tensors:<11} {text}"
    return clipped(line.rstrip(), _WIDTH)


def _saved(planned: Sequence[GraphExplanation]) -> Iterator[str]:
    """What the backward finds when it starts, where that is known."""
    backward = next((graph for graph in planned if graph.kind == "backward"), None)
    if backward is None:
        return
    saved = [tensor for tensor in backward.tensors if tensor.origin.role & Role.SAVED]
    if saved:
        size, what = sum(tensor.size for tensor in saved), f"{len(saved)} tensors"
        yield f"  {format_bytes(size)} in {what} were saved by the forward for the backward."


def _cures(explanation: Explanation, planned: Sequence[GraphExplanation]) -> Iterator[str]:
    """Each change with the bytes by which the step falls, the largest first."""
    peaks = {graph.name: graph.peak for graph in planned}
    now = max(peaks.values())
    stocks = [graph.stock_peak for graph in planned if graph.stock_peak is not None]
    found = []
    if stocks and max(stocks) > now:
        found.append((now, max(stocks), 'torch.compile(model, backend="memsched") instead of stock'))
    for experiment in explanation.experiments:
        if experiment.peaks:
            found.append((max({**peaks, **experiment.peaks}.values()), now, experiment.change))
    found = [cure for cure in found if cure[0] < cure[1]]
    for after, before, change in sorted(found, key=lambda cure: (cure[0] - cure[1], cure[2]))[:_CURES]:
        yield clipped(f"  -{format_bytes(before - after):<12} {after / before - 1:>5.0%}  {change}", _WIDTH)
    if explanation.step is not None and found:
        yield "  memsched fit finds what to pull to keep a budget, and what that costs."


def _place(tensor: LiveTensor) -> str:
    origin = tensor.origin
    if origin.module:
        return _NUMBER.sub("*", origin.module)
    return origin.operator or tensor.name


def _line_of(tensor: LiveTensor) -> str:
    """The file and the line, without the code."""
    return tensor.origin.source.partition(" in ")[0].rpartition("/")[2]

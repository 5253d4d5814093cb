"""A plan as one HTML file that needs no network: memory over time, the order, the proof.

    ┌ stock (incoming) ──────────────┐   one or two orders of the same graph, stacked by buffer, the same scale
    │        ▄▄██▄▄   ▂▂             │
    │  ▂▂▄▄████████████████▄▄▂▂      │   - - - the lower bound that holds for every order
    └────────────────────────────────┘
    ┌ memsched ──────────────────────┐
    │  ▂▂▄▄▄▄██▄▄▄▄▄▄▄▄▄▄▂▂          │
    └────────────────────────────────┘

The file is a frame, a style sheet and a script (`memsched.report.page`) and one JSON object.  Names in a graph are
not trusted: Python escapes what it writes as markup, `<`, `>` and `&` do not occur in the JSON, the script only sets
text, and the policy in the head allows exactly this script and this style, and no connection.  Long names are clipped,
which keeps 5,000 ops below 5 MB.  The same plan gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from memsched.core.graph import Graph
from memsched.core.origin import Origin, RefusedFusion
from memsched.core.result import Certificate
from memsched.report.page import FRAME, SCRIPT, STYLE
from memsched.report.timeline import Timeline
from memsched.report.words import certificate_words, clipped, format_bytes, gap_words, type_of

__all__ = ["page_data", "render_html"]

_NAME_LENGTH = 120
_SOURCE_LENGTH = 200
_REFUSALS_SHOWN = 50


def render_html(
    timelines: Sequence[Timeline],
    lower_bound: int | None = None,
    certificate: Certificate | None = None,
    proved: bool = False,
    refusals: Sequence[RefusedFusion] = (),
) -> str:
    """The page for one or two orders of the same graph, the one that was chosen last.

    lower_bound: bytes that every order needs; proved: whether `certificate` could be followed by `memsched.core.check`.
    Raises ValueError when the orders are of different graphs.
    """
    chosen = timelines[-1]
    if any(timeline.graph is not chosen.graph for timeline in timelines):
        raise ValueError("the orders on one page must be of the same graph")
    peak = chosen.profile.peak
    proof = (certificate_words(chosen.graph, certificate, proved), gap_words(peak, lower_bound))
    return FRAME.format(
        title=escape(f"memsched: {clipped(_printable(chosen.graph.name) or 'a graph', _SOURCE_LENGTH)}"),
        subtitle=escape(_subtitle(chosen.graph)),
        cards="".join(_cards(timelines, lower_bound)),
        proof="".join(f"<p>{escape(_printable(words))}</p>" for words in proof),
        refusals=_refusals(refusals),
        style=STYLE,
        script=SCRIPT,
        style_hash=_hash(STYLE),
        script_hash=_hash(SCRIPT),
        data=_inert(page_data(timelines, lower_bound)),
    )


def page_data(timelines: Sequence[Timeline], lower_bound: int | None) -> dict[str, Any]:
    """What the script draws, by columns; repeated texts are numbers into `strings`."""
    graph, strings = timelines[-1].graph, _Strings()
    origins = [timelines[-1].origins.get(buffer.name, Origin()) for buffer in graph.buffers]
    buffers: dict[str, Any] = {
        "name": [clipped(_printable(buffer.name), _NAME_LENGTH) for buffer in graph.buffers],
        "size": [buffer.size for buffer in graph.buffers],
        "producer": [-1 if buffer.producer is None else buffer.producer for buffer in graph.buffers],
        "class": [1 if buffer.kept else 0 if buffer.producer is None else 2 for buffer in graph.buffers],
    }
    if any(origin != Origin() for origin in origins):
        columns: tuple[tuple[str, Callable[[Origin], str]], ...] = (
            ("type", type_of),
            ("operator", lambda origin: origin.operator),
            ("source", lambda origin: origin.source),
            ("module", lambda origin: origin.module),
        )
        buffers |= {name: [strings.index(of(origin)) for origin in origins] for name, of in columns}
    ops = {
        "name": [clipped(_printable(op.name), _NAME_LENGTH) for op in graph.ops],
        "kind": [strings.index(op.kind) for op in graph.ops],
        "workspace": [op.workspace for op in graph.ops],
        "outputs": [list(outputs) for outputs in graph.outputs_of],
    }
    plans = [_plan(timeline) for timeline in timelines]
    return {"ops": ops, "buffers": buffers, "plans": plans, "bound": lower_bound, "strings": strings.texts}


def _plan(timeline: Timeline) -> dict[str, Any]:
    return {
        "title": _printable(timeline.title),
        "order": list(timeline.order),
        "first": [lifetime.first for lifetime in timeline.lifetimes],
        "last": [lifetime.last for lifetime in timeline.lifetimes],
        "start": timeline.profile.start,
        "peaks": list(timeline.profile.step_peaks),
        "levels": list(timeline.profile.levels),
        "peak": timeline.profile.peak,
        "peakStep": timeline.profile.peak_step,
    }


class _Strings:
    """Texts in the order in which they are first met."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._index_of: dict[str, int] = {}

    def index(self, text: str) -> int:
        text = clipped(_printable(text), _SOURCE_LENGTH)
        if text not in self._index_of:
            self._index_of[text] = len(self.texts)
            self.texts.append(text)
        return self._index_of[text]


def _subtitle(graph: Graph) -> str:
    facts = (
        f"{len(graph.ops):,} ops, {len(graph.buffers):,} buffers",
        graph.stage and f"{graph.stage} scheduler nodes",
        graph.device and f"lowered for {graph.device}",
        graph.torch and f"torch {graph.torch}",
    )
    return _printable(" · ".join(filter(None, facts)) + " · bytes are predicted by the memory model, not measured")


def _cards(timelines: Sequence[Timeline], lower_bound: int | None) -> list[str]:
    chosen, peak = timelines[-1], timelines[-1].profile.peak
    cards = []
    for other in timelines[:-1]:
        before = other.profile.peak
        change = f"{peak / before - 1:+.1%} with {chosen.title}" if before else ""
        cards.append(_card(f"peak, {other.title}", format_bytes(before), change))
    step = chosen.profile.peak_step
    name = clipped(chosen.graph.ops[chosen.order[step]].name, 40)
    cards.append(_card(f"peak, {chosen.title}", format_bytes(peak), f"step {step}, {name}"))
    if lower_bound:
        gap = "met: no order needs less" if peak == lower_bound else f"gap {peak / lower_bound - 1:.2%}"
        cards.append(_card("lower bound of every order", format_bytes(lower_bound), gap))
    ends = f"end {format_bytes(chosen.graph.end_bytes)}"
    return [*cards, _card("live at the start", format_bytes(chosen.graph.start_bytes), ends)]


def _card(title: str, value: str, note: str) -> str:
    title, value, note = (escape(_printable(text)) for text in (title, value, note))
    return f"<div><dt>{title}</dt><dd>{value}<small>{note}</small></dd></div>"


def _refusals(refusals: Sequence[RefusedFusion]) -> str:
    """A section on the fusions that were refused; nothing when there are none."""
    if not refusals:
        return ""
    rows = [
        f'<tr><td>{_names(refusal.ops)}</td><td>{_names(refusal.other)}</td><td class="number">'
        f"{escape(format_bytes(refusal.price))}</td></tr>"
        for refusal in refusals[:_REFUSALS_SHOWN]
    ]
    more = f"<p class='muted'>and {len(refusals) - len(rows)} more</p>" if len(refusals) > len(rows) else ""
    head = (
        '<tr><th scope="col">kernel</th><th scope="col">other</th><th scope="col" class="number">over budget</th></tr>'
    )
    return (
        f'<section aria-labelledby="refusals-heading"><h2 id="refusals-heading">Fusions refused: {len(refusals)}</h2>'
        f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>{more}</section>'
    )


def _names(ops: Sequence[str]) -> str:
    return escape(clipped(_printable(", ".join(ops)), _NAME_LENGTH))


def _printable(text: str) -> str:
    """`text` with lone surrogates, which no file can hold, replaced, and control characters made visible."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _inert(data: dict[str, Any]) -> str:
    """JSON that cannot end the element that holds it."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _hash(text: str) -> str:
    """The source expression of a Content-Security-Policy that allows exactly this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

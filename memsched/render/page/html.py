"""Plans as one HTML file that needs no network: memory over time, the order, the proof, of one graph or several.

    ┌ stock ─────────────────────────┐   the orders of one compiled graph, stacked by buffer, at the same scale,
    │        ▄▄██▄▄   ▂▂             │   each with the outline of the other
    │  ▂▂▄▄████████████████▄▄▂▂      │
    └────────────────────────────────┘   - - - the lower bound that holds for every order of these kernels
    ┌ memsched ──────────────────────┐
    │  ▂▂▄▄▄▄██▄▄▄▄▄▄▄▄▄▄▂▂          │   and what the allocator held while it ran, if somebody measured it
    └────────────────────────────────┘

The file is a frame, a style sheet and a script (`memsched.render.page.parts`) and one JSON object.  Names in a graph
are not trusted: Python escapes what it writes as markup, `<`, `>` and `&` do not occur in the JSON, the script only
sets text, and the policy in the head allows exactly this script and this style, and no connection.  Long names are
clipped, which keeps 5,000 ops below 5 MB.  The same plan gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from memsched.core.graph import Buffer
from memsched.core.sizes import format_bytes
from memsched.records.fusion import RefusedFusion
from memsched.records.origin import Origin
from memsched.records.step import MeasuredCurve
from memsched.render.exhibit import Exhibit
from memsched.render.page.parts import frame, script, style
from memsched.render.text.words import certificate_words, clipped, gap_words, type_of
from memsched.render.timeline import Timeline

__all__ = ["page_data", "render_html"]

_NAME_LENGTH = 120
_SOURCE_LENGTH = 200
_REFUSALS_SHOWN = 50
_MEASURED_LEGEND = '\n<span class="swatch measured"></span>measured'


def render_html(exhibits: Sequence[Exhibit], title: str = "", answer: str = "", advice: str = "") -> str:
    """The page of the compiled graphs in `exhibits`, of which the reader looks at one at a time.

    title: in place of the name of the first graph; answer, advice: markup above and below the charts, escaped by
        whoever made it.
    """
    title = title or exhibits[-1].timelines[-1].graph.name or "a graph"
    return frame().format(
        title=escape(f"memsched: {clipped(_printable(title), _SOURCE_LENGTH)}"),
        subtitle=escape(_subtitle(exhibits)),
        answer=answer,
        advice=advice,
        cards=_each(exhibits, lambda exhibit: f'<dl class="cards">{"".join(_cards(exhibit))}</dl>'),
        measured_legend=_MEASURED_LEGEND if any(exhibit.measured for exhibit in exhibits) else "",
        proofs=_each(exhibits, _proof),
        refusals=_each(exhibits, lambda exhibit: _refusals(exhibit.refusals)),
        style=style(),
        script=script(),
        style_hash=_hash(style()),
        script_hash=_hash(script()),
        data=_inert(page_data(exhibits)),
    )


def _each(exhibits: Sequence[Exhibit], render: Callable[[Exhibit], str]) -> str:
    """One element for each graph; the script hides all but one, without it they follow each other."""
    return "".join(f'<div data-part="{part}">{render(exhibit)}</div>' for part, exhibit in enumerate(exhibits))


def page_data(exhibits: Sequence[Exhibit]) -> dict[str, Any]:
    """What the script draws, by columns; repeated texts are numbers into `strings`, orders of one graph share it."""
    strings, graphs = _Strings(), _Graphs()
    parts = [
        {
            "name": _printable(exhibit.timelines[-1].graph.name) or f"graph {number}",
            "bound": exhibit.lower_bound,
            "plans": [
                _plan(timeline, graphs.index(timeline), exhibit.measured if timeline is exhibit.timelines[-1] else None)
                for timeline in exhibit.timelines
            ],
        }
        for number, exhibit in enumerate(exhibits)
    ]
    return {
        "graphs": [_graph(timeline, strings) for timeline in graphs.timelines],
        "parts": parts,
        "strings": strings.texts,
    }


class _Graphs:
    """The graphs of the timelines, each once, by identity, with the first timeline that has it."""

    def __init__(self) -> None:
        self.timelines: list[Timeline] = []

    def index(self, timeline: Timeline) -> int:
        known = [other.graph is timeline.graph and other.origins == timeline.origins for other in self.timelines]
        if True not in known:
            self.timelines.append(timeline)
            known.append(True)
        return known.index(True)


def _graph(timeline: Timeline, strings: _Strings) -> dict[str, Any]:
    graph = timeline.graph
    origins = [timeline.origins.get(buffer.name, Origin()) for buffer in graph.buffers]
    pairs = list(zip(graph.buffers, origins, strict=True))
    buffers: dict[str, Any] = {
        "name": [clipped(_printable(buffer.name), _NAME_LENGTH) for buffer in graph.buffers],
        "size": [buffer.size for buffer in graph.buffers],
        "producer": [-1 if buffer.producer is None else buffer.producer for buffer in graph.buffers],
        "class": [1 if buffer.kept else 0 if buffer.producer is None else 2 for buffer in graph.buffers],
        "role": [strings.index(_role(buffer, origin)) for buffer, origin in pairs],
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
    return {"ops": ops, "buffers": buffers}


def _role(buffer: Buffer, origin: Origin) -> str:
    """What the buffer is to the caller of the graph; empty for what the graph alone reads."""
    role = str(origin.role)
    if buffer.producer is None:
        return f"{role or 'input'}, held by the caller" if buffer.kept else role or "input"
    return role or ("graph output" if buffer.kept else "")


def _plan(timeline: Timeline, graph: int, measured: MeasuredCurve | None) -> dict[str, Any]:
    plan: dict[str, Any] = {
        "graph": graph,
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
    if measured is not None:
        places = [round(place, 3) for place in measured.places]
        plan["measured"] = {"at": places, "bytes": list(measured.levels), "peak": measured.peak}
    return plan


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


def _subtitle(exhibits: Sequence[Exhibit]) -> str:
    graphs = [exhibit.timelines[-1].graph for exhibit in exhibits]
    count = f"{len(graphs)} graphs, " if len(graphs) > 1 else ""
    sizes = (sum(len(graph.ops) for graph in graphs), sum(len(graph.buffers) for graph in graphs))
    facts = (
        f"{count}{sizes[0]:,} ops, {sizes[1]:,} buffers",
        graphs[-1].stage and f"{graphs[-1].stage} scheduler nodes",
        graphs[-1].device and f"lowered for {graphs[-1].device}",
        graphs[-1].torch and f"torch {graphs[-1].torch}",
        *dict.fromkeys(exhibit.measured.source for exhibit in exhibits if exhibit.measured),
    )
    stacked = "stacked bytes are predicted by the memory model"
    if not any(exhibit.measured for exhibit in exhibits):
        stacked += ", not measured"
    return _printable(" · ".join(filter(None, facts)) + f" · {stacked}")


def _proof(exhibit: Exhibit) -> str:
    chosen = exhibit.timelines[-1]
    words = (
        certificate_words(chosen.graph, exhibit.certificate, exhibit.proved),
        gap_words(chosen.profile.peak, exhibit.lower_bound),
    )
    return "".join(f"<p>{escape(_printable(each))}</p>" for each in words)


def _cards(exhibit: Exhibit) -> list[str]:
    chosen, peak = exhibit.timelines[-1], exhibit.timelines[-1].profile.peak
    cards = []
    for other in exhibit.timelines[:-1]:
        before = other.profile.peak
        change = f"{peak / before - 1:+.1%} with {chosen.title}" if before else ""
        cards.append(_card(f"peak, {other.title}", format_bytes(before), change))
    step = chosen.profile.peak_step
    name = clipped(chosen.graph.ops[chosen.order[step]].name, 40)
    cards.append(_card(f"peak, {chosen.title}", format_bytes(peak), f"step {step}, {name}"))
    if exhibit.measured:
        error = f"{exhibit.measured.peak / peak - 1:+.1%} of the prediction" if peak else ""
        cards.append(_card("peak, measured", format_bytes(exhibit.measured.peak), error))
    if exhibit.lower_bound:
        met = peak == exhibit.lower_bound
        gap = "met: no order needs less" if met else f"gap {peak / exhibit.lower_bound - 1:.2%}"
        cards.append(_card("lower bound of every order", format_bytes(exhibit.lower_bound), gap))
    ends = f"end {format_bytes(chosen.graph.end_bytes)}"
    return [*cards, _card("live at the start", format_bytes(chosen.graph.start_bytes), ends)]


def _card(title: str, value: str, note: str) -> str:
    title, value, note = (escape(_printable(text)) for text in (title, value, note))
    return f"<div><dt>{title}</dt><dd>{value}<small>{note}</small></dd></div>"


def _refusals(refusals: Sequence[RefusedFusion]) -> str:
    """A section on the fusions that were refused; nothing when there are none."""
    if not refusals:
        return ""
    rows = []
    for refusal in refusals[:_REFUSALS_SHOWN]:
        names = f"<td>{_names(refusal.ops)}</td><td>{_names(refusal.other)}</td>"
        figures = (format_bytes(refusal.price), format_bytes(refusal.traffic))
        rows.append(f"<tr>{names}" + "".join(f'<td class="number">{figure}</td>' for figure in figures) + "</tr>")
    more = f"<p class='muted'>and {len(refusals) - len(rows)} more</p>" if len(refusals) > len(rows) else ""
    head = (
        '<tr><th scope="col">kernel</th><th scope="col">other</th><th scope="col" class="number">over budget</th>'
        '<th scope="col" class="number">would save moving</th></tr>'
    )
    return (
        f'<section aria-label="fusions"><h2>Fusions refused: {len(refusals)}</h2>'
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

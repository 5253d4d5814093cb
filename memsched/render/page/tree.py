"""A decomposition tree, or the reason why there is none, as text and as a picture; on request with its segments.

    $ memsched tree diamond.json --segments                      (render_text)

    diamond: 4 ops, series-parallel (vertex: yes, two-terminal: yes)
    Series       6/5
    ├─ a         4/0
    ├─ Parallel  2/4 | 1/0
    │  ├─ b      1/0
    │  └─ c      2/4 |
    └─ d         1/3 |

    segment     start      hill    valley  ops
          1         0         6         1  a c b d
    minimum cut 0, lower bound 6, peak of the order 7 bytes
    buffers with several last readers, freed at a designated one in this table: 1

Next to each node stands the segment list of its block, `hump/drop` in bytes relative to the level at which the segment
starts (`memsched.series_parallel.segments`); `|` marks its minimum cut, between falling and rising segments.  The table
lists the segments of the whole graph at their absolute level: the hills and valleys of Liu 1987 and of Kayaaslan,
Lambert, Marchal, Ucar 2018.  The picture (`render_svg`) is one SVG file, written by hand, without scripts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from memsched.core.graph import Graph
from memsched.series_parallel.order import designated_freers, modular_problem
from memsched.series_parallel.recognize import (
    Bridge,
    Decomposition,
    InducedN,
    TwoTerminalDecomposition,
    recognize,
    recognize_two_terminal,
)
from memsched.series_parallel.segments import Segment, segments_of, segments_of_nodes
from memsched.series_parallel.shared import Relaxation, solve_tree
from memsched.series_parallel.tree import Series, Tree, render_lines

__all__ = ["render_svg", "render_text"]

_MAX_ROWS = 1500
_MAX_SEGMENTS_SHOWN = 6
_MAX_OPS_SHOWN = 12
_MAX_NODES_WITH_SEGMENTS = 5000


@dataclass(frozen=True, slots=True)
class _Hill:
    """A segment at its absolute level: bytes at its start, at its highest point, at its end; and its ops."""

    start: int
    hill: int
    valley: int
    ops: list[int]


def render_text(graph: Graph, segments: bool = False) -> str:
    """The decomposition tree of `graph` as text, or its obstructions; with `segments` the hills and valleys too."""
    found, network = recognize(graph), recognize_two_terminal(graph)
    lines = [_headline(graph, found, network)]
    if isinstance(found, InducedN):
        lines += _n_lines(graph, found)
    else:
        relaxation = solve_tree(graph, found.tree) if segments else None
        notes = _segment_notes(graph, found.tree, relaxation) if relaxation else {}
        lines += _tree_lines(graph, found.tree, notes)
        if relaxation:
            lines += ["", *_segment_table(graph, relaxation)]
    if isinstance(network, Bridge):
        lines += ["", *_bridge_lines(graph, network)]
    return "\n".join(lines) + "\n"


def _headline(graph: Graph, found: Decomposition | InducedN, network: TwoTerminalDecomposition | Bridge) -> str:
    vertex = "yes" if isinstance(found, Decomposition) else "no"
    terminal = "yes" if isinstance(network, TwoTerminalDecomposition) else "no"
    verdict = "series-parallel" if isinstance(found, Decomposition) else "not series-parallel"
    count = f"{len(graph.ops)} op{'s' if len(graph.ops) > 1 else ''}"
    return f"{graph.name}: {count}, {verdict} (vertex: {vertex}, two-terminal: {terminal})"


def _n_lines(graph: Graph, witness: InducedN) -> list[str]:
    a, b, c, d = (graph.ops[op].name for op in (witness.a, witness.b, witness.c, witness.d))
    width = max(len(a), len(b))
    return [
        "Four ops form an N: each arrow is a precedence, direct or implied, and no other two of them are ordered.",
        f"  {a:<{width}} ──> {c}",
        f"  {'':<{width}}  ╲",
        f"  {b:<{width}} ──> {d}",
    ]


def _bridge_lines(graph: Graph, bridge: Bridge) -> list[str]:
    lines = ["As a network of precedences it holds a Wheatstone bridge, five paths that share only their ends:"]
    return lines + ["  " + " -> ".join(_vertex_name(graph, vertex) for vertex in path) for path in bridge.paths]


def _vertex_name(graph: Graph, vertex: int) -> str:
    if vertex < len(graph.ops):
        return graph.ops[vertex].name
    return "(source)" if vertex == len(graph.ops) else "(sink)"


def _rows(tree: Tree) -> Iterator[tuple[Tree, int, int]]:
    """Nodes from top to bottom, each with its depth and the row of its parent (-1 for the root)."""
    stack: list[tuple[Tree, int, int]] = [(tree, 0, -1)]
    row = 0
    while stack:
        node, depth, parent = stack.pop()
        yield node, depth, parent
        if not isinstance(node, int):
            stack.extend((child, depth + 1, row) for child in reversed(node.children))
        row += 1


def _label(graph: Graph, node: Tree) -> str:
    return graph.ops[node].name if isinstance(node, int) else type(node).__name__


def _tree_lines(graph: Graph, tree: Tree, notes: dict[int, str]) -> list[str]:
    """One node a line, indented; `notes` by row."""
    lines = render_lines(tree, lambda op: graph.ops[op].name, _MAX_ROWS)
    width = max(map(len, lines)) + 2
    return [f"{line:<{width}}{notes[row]}" if row in notes else line for row, line in enumerate(lines)]


def _segment_notes(graph: Graph, tree: Tree, relaxation: Relaxation) -> dict[int, str]:
    """For each row of the tree the segments of its block; none for trees that are too large to be read."""
    rows = list(_rows(tree))
    if len(rows) > _MAX_NODES_WITH_SEGMENTS:
        return {}
    problem = modular_problem(graph, _freers(graph, relaxation))
    row_of = {id(node) if not isinstance(node, int) else node: row for row, (node, _, _) in enumerate(rows)}
    notes = {}
    for node, segments in segments_of_nodes(tree, problem.humps, problem.drops):
        notes[row_of[id(node) if not isinstance(node, int) else node]] = _segment_list(segments)
    return notes


def _freers(graph: Graph, relaxation: Relaxation) -> Sequence[Sequence[int]]:
    return designated_freers(graph, relaxation.tree, relaxation.freed_by)


def _segment_list(segments: Sequence[Segment]) -> str:
    falling = sum(segment.drop > segment.hump for segment in segments)
    words = [f"{segment.hump}/{segment.drop}" for segment in segments]
    if falling:
        words.insert(falling, "|")
    if len(words) > _MAX_SEGMENTS_SHOWN:
        words = [*words[:_MAX_SEGMENTS_SHOWN], f"... {len(segments)} segments"]
    return " ".join(words)


def _hills(graph: Graph, relaxation: Relaxation) -> list[_Hill]:
    """The segments of the whole graph at their absolute levels."""
    problem = modular_problem(graph, _freers(graph, relaxation))
    hills: list[_Hill] = []
    level = problem.start
    for segment in segments_of(relaxation.tree, problem.humps, problem.drops):
        hills.append(_Hill(level, level + segment.hump, level + segment.net, segment.ops))
        level += segment.net
    return hills


def _segment_table(graph: Graph, relaxation: Relaxation) -> list[str]:
    hills = _hills(graph, relaxation)
    least = min([hill.valley for hill in hills] + [graph.start_bytes])
    columns = max(len(f"{relaxation.peak:,}"), 8)
    lines = [f"segment  {'start':>{columns}}  {'hill':>{columns}}  {'valley':>{columns}}  ops"]
    for number, hill in enumerate(hills[:_MAX_ROWS], start=1):
        names = [graph.ops[op].name for op in hill.ops[:_MAX_OPS_SHOWN]]
        if len(hill.ops) > _MAX_OPS_SHOWN:
            names.append(f"... {len(hill.ops)} ops")
        numbers = "  ".join(f"{value:>{columns},}" for value in (hill.start, hill.hill, hill.valley))
        lines.append(f"{number:>7}  {numbers}  {' '.join(names)}")
    lines.append(
        f"minimum cut {least:,} bytes, lower bound {relaxation.bound:,}, peak of the order {relaxation.peak:,}"
    )
    if relaxation.freed_by:
        count = len({index for index, _ in relaxation.freed_by})
        lines.append(
            f"{count} buffers have several maximal consumers; the table frees each at a designated one of them"
        )
    return lines


_ROW = 18
_INDENT = 22
_PROFILE_HEIGHT = 220
_PROFILE_WIDTH = 740
_MAX_LABELLED_SEGMENTS = 16
_ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0L10 5L0 10z" fill="#888"/></marker></defs>'
)
_COLORS = {"Series": "#2b6cb0", "Parallel": "#c05621"}


def render_svg(graph: Graph, segments: bool = False) -> str:
    """The decomposition tree of `graph` as one SVG picture, or the N; with `segments` the memory profile above it."""
    found = recognize(graph)
    title = _headline(graph, found, recognize_two_terminal(graph))
    parts = [_svg_text(10, 22, title, size=14)]
    top = 40
    width = 20 + 9 * len(title)
    if isinstance(found, InducedN):
        drawn, height = _svg_n(graph, found, top)
    else:
        if segments:
            relaxation = solve_tree(graph, found.tree)
            parts += _svg_profile(graph, relaxation, top)
            top += _PROFILE_HEIGHT + 60
            width = max(width, 780)
        drawn, height, tree_width = _svg_tree(graph, found.tree, top)
        width = max(width, tree_width)
    body = "\n".join(parts + drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _svg_text(x: float, y: float, text: str, size: int = 12, color: str = "#222", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg_line(points: Sequence[tuple[float, float]], color: str, extra: str = "") -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"{extra}/>'


def _svg_tree(graph: Graph, tree: Tree, top: int) -> tuple[list[str], int, int]:
    """The tree, root at the left, one node a row; the parts, the height and the width that they need."""
    lines: list[str] = []
    parts: list[str] = []
    places: list[tuple[float, float]] = []
    widest = 0.0
    for row, (node, depth, parent) in enumerate(_rows(tree)):
        if row == _MAX_ROWS:
            parts.append(_svg_text(10, top + row * _ROW + 14, f"... cut after {_MAX_ROWS} rows"))
            break
        x, y = 16.0 + depth * _INDENT, top + row * _ROW + 9.0
        places.append((x, y))
        if parent >= 0:
            parent_x, parent_y = places[parent]
            lines.append(_svg_line([(parent_x, parent_y), (parent_x, y), (x, y)], "#aaa"))
        name = _label(graph, node)
        if isinstance(node, int):
            parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="3" fill="#444"/>')
            parts.append(_svg_text(x + 8, y + 4, name))
        else:
            color = _COLORS[name]
            parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="7" fill="{color}"/>')
            parts.append(_svg_text(x, y + 4, "S" if isinstance(node, Series) else "P", 10, "white", "middle"))
        widest = max(widest, x + 20 + 7.5 * len(name))
    return lines + parts, top + (len(places) + 2) * _ROW, int(widest) + 10


def _svg_n(graph: Graph, witness: InducedN, top: int) -> tuple[list[str], int]:
    """The four ops of an N and its three arrows; the parts, and the height that they need."""
    ops = (witness.a, witness.b, witness.c, witness.d)
    places = {op: (30.0 if at < 2 else 330.0, top + 30.0 + 80 * (at % 2)) for at, op in enumerate(ops)}
    parts = [_ARROW, _svg_text(10, top + 4, "Four ops form an N: no other two of them are ordered.")]
    for before, after in ((witness.a, witness.c), (witness.a, witness.d), (witness.b, witness.d)):
        (x, y), (other_x, other_y) = places[before], places[after]
        parts.append(_svg_line([(x + 8, y), (other_x - 8, other_y)], "#888", ' marker-end="url(#arrow)"'))
    for op, (x, y) in places.items():
        parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="5" fill="#c53030"/>')
        parts.append(_svg_text(x, y - 10, graph.ops[op].name))
    return parts, top + 150


def _svg_profile(graph: Graph, relaxation: Relaxation, top: int) -> list[str]:
    """Live bytes over the ops in the order in which they run; each segment shaded, with its hill and its valley."""
    problem = modular_problem(graph, _freers(graph, relaxation))
    hills = _hills(graph, relaxation)
    total = len(graph.ops)
    base = top + _PROFILE_HEIGHT
    parts: list[str] = []
    points: list[tuple[float, float]] = []

    def place(step: float, level: int) -> tuple[float, float]:
        return 20 + _PROFILE_WIDTH * step / total, base - _PROFILE_HEIGHT * level / max(1, relaxation.bound)

    level, done = problem.start, 0
    for number, hill in enumerate(hills):
        left, right = place(done, 0)[0], place(done + len(hill.ops), 0)[0]
        shade = "#e6effa" if number % 2 else "#fdf3e1"
        size = f'width="{right - left:g}" height="{_PROFILE_HEIGHT}"'
        parts.append(f'<rect x="{left:g}" y="{top}" {size} fill="{shade}"/>')
        for value, color in ((hill.hill, "#c53030"), (hill.valley, "#2f855a")):
            height = place(0, value)[1]
            parts.append(_svg_line([(left, height), (right, height)], color, ' stroke-dasharray="3 2"'))
            if len(hills) <= _MAX_LABELLED_SEGMENTS:
                parts.append(_svg_text(left + 2, height - 3, f"{value:,}", 9, color))
        for op in hill.ops:
            peak, level = level + problem.humps[op], level + problem.humps[op] - problem.drops[op]
            points += [place(done, peak), place(done + 0.6, peak), place(done + 1, level)]
            done += 1
    parts.append(_svg_line(points, "#2c5282"))
    parts.append(_svg_line([place(0, 0), place(total, 0)], "#444"))
    kind = "peak" if relaxation.closed else "lower bound"
    legend = f"{len(hills)} segments of {total} ops, {kind} {relaxation.bound:,} bytes; red: hill, green: valley"
    parts.append(_svg_text(20, base + 18, legend))
    if relaxation.freed_by:
        note = "buffers with several last readers are freed at a designated one"
        parts.append(_svg_text(20, base + 34, note, color="#777"))
    return parts

"""A decomposition tree as a picture, or the N that excludes one; on request with the memory profile of its segments.

The picture is one SVG file, written by hand, without scripts.

    ┌ live bytes over the ops, a shade for each segment, its hill in red and its valley in green ┐
    │ (S) ── a                                                                                     │
    │  └─ (P) ── b                                                                                 │
    └       └─ c                                                                                   ┘
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from memsched.core.graph import Graph
from memsched.render.page.tree import MAX_ROWS, freers_of, headline, hills_of, label_of, rows_of
from memsched.series_parallel.order import modular_problem
from memsched.series_parallel.recognize import InducedN, recognize, recognize_two_terminal
from memsched.series_parallel.shared import Relaxation, solve_tree
from memsched.series_parallel.tree import Series, Tree

__all__ = ["render_svg"]

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
    title = headline(graph, found, recognize_two_terminal(graph))
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
    for row, (node, depth, parent) in enumerate(rows_of(tree)):
        if row == MAX_ROWS:
            parts.append(_svg_text(10, top + row * _ROW + 14, f"... cut after {MAX_ROWS} rows"))
            break
        x, y = 16.0 + depth * _INDENT, top + row * _ROW + 9.0
        places.append((x, y))
        if parent >= 0:
            parent_x, parent_y = places[parent]
            lines.append(_svg_line([(parent_x, parent_y), (parent_x, y), (x, y)], "#aaa"))
        name = label_of(graph, node)
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
    problem = modular_problem(graph, freers_of(graph, relaxation))
    hills = hills_of(graph, relaxation)
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

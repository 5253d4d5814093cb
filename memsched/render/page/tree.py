"""A decomposition tree, or the reason why there is none, as text; on request with its segments.

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
Lambert, Marchal, Ucar 2018.  `memsched.render.page.tree_picture` draws the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from memsched.series_parallel.tree import Tree, render_lines

__all__ = ["MAX_ROWS", "Hill", "freers_of", "headline", "hills_of", "label_of", "render_text", "rows_of"]

MAX_ROWS = 1500
_MAX_SEGMENTS_SHOWN = 6
_MAX_OPS_SHOWN = 12
_MAX_NODES_WITH_SEGMENTS = 5000


@dataclass(frozen=True, slots=True)
class Hill:
    """A segment at its absolute level: bytes at its start, at its highest point, at its end; and its ops."""

    start: int
    hill: int
    valley: int
    ops: list[int]


def render_text(graph: Graph, segments: bool = False) -> str:
    """The decomposition tree of `graph` as text, or its obstructions; with `segments` the hills and valleys too."""
    found, network = recognize(graph), recognize_two_terminal(graph)
    lines = [headline(graph, found, network)]
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


def headline(graph: Graph, found: Decomposition | InducedN, network: TwoTerminalDecomposition | Bridge) -> str:
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


def rows_of(tree: Tree) -> Iterator[tuple[Tree, int, int]]:
    """Nodes from top to bottom, each with its depth and the row of its parent (-1 for the root)."""
    stack: list[tuple[Tree, int, int]] = [(tree, 0, -1)]
    row = 0
    while stack:
        node, depth, parent = stack.pop()
        yield node, depth, parent
        if not isinstance(node, int):
            stack.extend((child, depth + 1, row) for child in reversed(node.children))
        row += 1


def label_of(graph: Graph, node: Tree) -> str:
    return graph.ops[node].name if isinstance(node, int) else type(node).__name__


def _tree_lines(graph: Graph, tree: Tree, notes: dict[int, str]) -> list[str]:
    """One node a line, indented; `notes` by row."""
    lines = render_lines(tree, lambda op: graph.ops[op].name, MAX_ROWS)
    width = max(map(len, lines)) + 2
    return [f"{line:<{width}}{notes[row]}" if row in notes else line for row, line in enumerate(lines)]


def _segment_notes(graph: Graph, tree: Tree, relaxation: Relaxation) -> dict[int, str]:
    """For each row of the tree the segments of its block; none for trees that are too large to be read."""
    rows = list(rows_of(tree))
    if len(rows) > _MAX_NODES_WITH_SEGMENTS:
        return {}
    problem = modular_problem(graph, freers_of(graph, relaxation))
    row_of = {id(node) if not isinstance(node, int) else node: row for row, (node, _, _) in enumerate(rows)}
    notes = {}
    for node, segments in segments_of_nodes(tree, problem.humps, problem.drops):
        notes[row_of[id(node) if not isinstance(node, int) else node]] = _segment_list(segments)
    return notes


def freers_of(graph: Graph, relaxation: Relaxation) -> Sequence[Sequence[int]]:
    return designated_freers(graph, relaxation.tree, relaxation.freed_by)


def _segment_list(segments: Sequence[Segment]) -> str:
    falling = sum(segment.drop > segment.hump for segment in segments)
    words = [f"{segment.hump}/{segment.drop}" for segment in segments]
    if falling:
        words.insert(falling, "|")
    if len(words) > _MAX_SEGMENTS_SHOWN:
        words = [*words[:_MAX_SEGMENTS_SHOWN], f"... {len(segments)} segments"]
    return " ".join(words)


def hills_of(graph: Graph, relaxation: Relaxation) -> list[Hill]:
    """The segments of the whole graph at their absolute levels."""
    problem = modular_problem(graph, freers_of(graph, relaxation))
    hills: list[Hill] = []
    level = problem.start
    for segment in segments_of(relaxation.tree, problem.humps, problem.drops):
        hills.append(Hill(level, level + segment.hump, level + segment.net, segment.ops))
        level += segment.net
    return hills


def _segment_table(graph: Graph, relaxation: Relaxation) -> list[str]:
    hills = hills_of(graph, relaxation)
    least = min([hill.valley for hill in hills] + [graph.start_bytes])
    columns = max(len(f"{relaxation.peak:,}"), 8)
    lines = [f"segment  {'start':>{columns}}  {'hill':>{columns}}  {'valley':>{columns}}  ops"]
    for number, hill in enumerate(hills[:MAX_ROWS], start=1):
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

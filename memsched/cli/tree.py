"""`memsched tree GRAPH`: the series-parallel decomposition of a graph as text, SVG or JSON, or why it has none."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from memsched.cli.command import EXIT_DONE, Command
from memsched.cli.text import print_text
from memsched.core.graph import Graph
from memsched.files.graph_file import read_graph
from memsched.files.json_file import atomic_write
from memsched.series_parallel.recognize import Decomposition, recognize
from memsched.series_parallel.tree import to_json

__all__ = ["COMMANDS"]


def _declare_tree(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", metavar="GRAPH")
    parser.add_argument("--segments", action="store_true", help="add the hills and valleys of every node")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("-o", "--output", metavar="SVG", help="draw to this file instead of printing text")
    form.add_argument("--json", action="store_true", help="print the tree, or the four ops that forbid one")


def _tree(arguments: argparse.Namespace) -> int:
    graph = read_graph(arguments.graph)
    if arguments.json:
        print(json.dumps(_tree_json(graph), separators=(",", ":")))
        return EXIT_DONE
    from memsched.render.page.tree import render_text
    from memsched.render.page.tree_picture import render_svg

    if arguments.output:
        atomic_write(arguments.output, render_svg(graph, arguments.segments).encode(errors="backslashreplace"))
    else:
        print_text(render_text(graph, arguments.segments))
    return EXIT_DONE


def _tree_json(graph: Graph) -> dict[str, object]:
    """The decomposition in the form of `TreeCertificate.tree`, or the induced N a -> c, a -> d, b -> d."""
    found = recognize(graph)
    answer: dict[str, object] = {"name": graph.name, "ops": len(graph.ops)}
    if isinstance(found, Decomposition):
        return answer | {"series_parallel": True, "tree": to_json(found.tree)}
    return answer | {"series_parallel": False, "induced_n": asdict(found)}


COMMANDS = (Command("tree", "the series-parallel decomposition of a graph, or why it has none", _declare_tree, _tree),)

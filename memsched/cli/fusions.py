"""`memsched fusions`: what each fusion of a graph brings and costs, and which ones a plan keeps.

memsched fusions before.json.gz after.json.gz      stock's fusions, recovered from the names of the fused ops
memsched fusions before.json.gz                    any two kernels that share a buffer, each fusion alone
memsched fusions train:step [--inference]          plan a model: what Inductor proposed, accepted and refused
"""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from memsched.cli.command import EXIT_DONE, Command
from memsched.cli.progress import Progress
from memsched.cli.text import print_columns, print_text
from memsched.core.graph import GraphError
from memsched.core.sizes import InputError, parse_bytes
from memsched.files.fields import FormatError
from memsched.files.graph_file import read_graph

if TYPE_CHECKING:
    from memsched.render.text.fusions import FusionList

__all__ = ["COMMANDS"]


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="GRAPH|MODULE:FUNCTION", help="a graph before fusion, or a step of a model")
    parser.add_argument("fused", metavar="FUSED", nargs="?", help="the same graph after Inductor has fused it")
    parser.add_argument("--budget", type=_size, metavar="SIZE", help="such as 1.5GiB (default: the peak of the plan)")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="rows in the table (default: 20; 0: all)")
    parser.add_argument("--inference", action="store_true", help="plan no backward")
    parser.add_argument("--json", action="store_true", help="print one memsched-fusions/1 object for each graph")


def _run(arguments: argparse.Namespace) -> int:
    lists = _lists(arguments)
    if arguments.json:
        print(json.dumps([found.to_json() for found in lists], separators=(",", ":")))
        return EXIT_DONE
    for at, found in enumerate(lists):
        if at:
            print()
        print_text(found.summary())
        limit = arguments.limit or len(found.rows)
        if found.rows:
            print_columns(found.table(limit), right=(2, 3, 4))
        if len(found.rows) > limit:
            print(f"... and {len(found.rows) - limit} more (--limit 0 shows all)")
    return EXIT_DONE


def _lists(arguments: argparse.Namespace) -> list[FusionList]:
    from memsched.render.text.fusions import fusions_of_graph, fusions_of_pair, fusions_of_report

    subject: str = arguments.subject
    if ":" in subject and not os.path.exists(subject):
        if arguments.fused or arguments.budget is not None:
            raise InputError(f"{subject}: FUSED and --budget go with a graph file, not with a model")
        from memsched.inductor.questions.sweep import plan_target

        with Progress() as tell:
            tell("planning the step")
            reports = plan_target(subject, train=not arguments.inference)
        return [fusions_of_report(report) for report in reports]
    graph = read_graph(subject)
    if arguments.fused is None:
        if arguments.budget is not None:
            raise InputError(f"{subject}: --budget decides about given fusions: name the graph after fusion as well")
        return [fusions_of_graph(graph)]
    fused = read_graph(arguments.fused)
    try:
        return [fusions_of_pair(graph, fused, arguments.budget)]
    except GraphError as error:
        raise FormatError(f"{arguments.fused}: {error}") from error


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


COMMANDS = (Command("fusions", "what each fusion brings and costs, and which ones a plan keeps", _declare, _run),)

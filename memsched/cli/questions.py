"""`memsched explain | check | diff`: why a model peaks where it does, whether the peak rose, what changed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memsched.cli.command import EXIT_DONE, EXIT_ROSE, Command
from memsched.cli.progress import Progress
from memsched.cli.text import print_text
from memsched.core.sizes import InputError, parse_share
from memsched.files.fields import FormatError
from memsched.files.graph_file import write_graph
from memsched.files.json_file import atomic_write, write_json
from memsched.files.plan_file import report_to_plan
from memsched.questions import explain_file, explain_target
from memsched.records.question import StepQuestion

if TYPE_CHECKING:
    from memsched.records.explanation import Explanation

__all__ = ["COMMANDS"]


# ---- explain


def _declare_explain(parser: argparse.ArgumentParser) -> None:
    """The arguments of `memsched explain`."""
    _declare_target(parser, "; or a file with a graph or a plan")
    parser.add_argument("--measure", action="store_true", help="also compile and run the step, and measure its bytes")
    parser.add_argument("-o", "--output", metavar="PAGE", help="also write a page: out.html")
    parser.add_argument("--plans", metavar="FOLDER", help="also write the graph and the plan of every compiled graph")
    parser.add_argument("--all", action="store_true", help="also every tensor at the peak, the bounds, the fusions")
    parser.add_argument("--quick", action="store_true", help="no experiments: no smaller batch, no checkpointing")
    parser.add_argument("--json", action="store_true", help="print one memsched-explanation/1 object")


def _run_explain(arguments: argparse.Namespace) -> int:
    """Print why a step peaks where it does."""
    _check_output(arguments.output)
    found = explain_file(arguments.target) if _is_file(arguments.target) else _explain_target(arguments)
    if arguments.output:
        from memsched.render.page.explanation import render_explanation_page

        atomic_write(arguments.output, render_explanation_page(found, arguments.target).encode())
    if arguments.plans:
        _write_plans(arguments.plans, found)
    print_text(_told(found, arguments))
    return EXIT_DONE


def _told(found: Explanation, arguments: argparse.Namespace) -> str:
    """All of it as JSON; or for people the answer, and the details if they are asked for or there is no answer."""
    if arguments.json:
        return json.dumps(found.to_json(), separators=(",", ":"))
    if arguments.all or not found.answer:
        return str(found)
    return f"{found.answer}\n--all tells of every tensor, the bounds and the refused fusions."


def _is_file(target: str) -> bool:
    """A file, a pipe or a device; and what is called like a file, so that a missing one is called missing."""
    there = os.path.exists(target) and not os.path.isdir(target)
    return there or target.endswith((".json", ".json.gz"))


def _check_output(output: str | None) -> None:
    """Before minutes of work: raises FormatError."""
    if output and not output.endswith(".html"):
        raise FormatError(
            f"{output}: the name must end in .html (--plans writes what `memsched show` turns into others)"
        )
    if output and not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise FormatError(f"{output}: its folder does not exist")


def _explain_target(arguments: argparse.Namespace) -> Explanation:
    question = StepQuestion(
        train=not arguments.inference,
        device=arguments.device,
        experiments=not arguments.quick,
        measure=arguments.measure,
        fullgraph=not arguments.allow_graph_breaks,
    )
    with Progress() as tell:
        return explain_target(arguments.target, question, tell)


def _write_plans(folder: str, found: Explanation) -> None:
    """One graph and one plan for each compiled graph, `backward-0.graph.json` and `backward-0.plan.json`."""
    os.makedirs(folder, exist_ok=True)
    for report in found.planned.reports if found.planned else ():
        if report.graph is not None:
            stem = os.path.join(folder, report.name.replace(" ", "-"))
            write_graph(f"{stem}.graph.json", report.graph)
            write_json(f"{stem}.plan.json", report_to_plan(report))


def _declare_target(parser: argparse.ArgumentParser, or_else: str = "") -> None:
    parser.add_argument("target", metavar="MODULE:FUNCTION", help=f"a function that returns (model, batch){or_else}")
    parser.add_argument("--inference", action="store_true", help="plan no backward")
    parser.add_argument(
        "--allow-graph-breaks", action="store_true", help="take a model that breaks into several graphs, one by one"
    )
    parser.add_argument("--device", default="cpu", help="where the model and its batch are (default: cpu)")


# ---- check


def _declare_check(parser: argparse.ArgumentParser) -> None:
    """The arguments of `memsched check`."""
    _declare_target(parser)
    parser.add_argument("--baseline", required=True, metavar="PEAKS", help="the file that holds the peaks so far")
    parser.add_argument("--tolerance", type=_share, default=0.0, metavar="SHARE", help="such as 1%% (default: 0)")
    parser.add_argument("--update", action="store_true", help="write the peaks of now to the baseline")


def _run_check(arguments: argparse.Namespace) -> int:
    """Compare the peaks of now with the baseline; 1 when one rose, or when a graph is new."""
    from memsched.render.baseline import Peaks, compare, peaks_of, read_peaks, render_changes, write_peaks

    fresh = arguments.update and not os.path.exists(arguments.baseline)
    before = Peaks(()) if fresh else read_peaks(arguments.baseline)
    question = StepQuestion(
        train=not arguments.inference,
        device=arguments.device,
        experiments=False,
        stock=False,
        fullgraph=not arguments.allow_graph_breaks,
        portable=True,
    )
    with Progress() as tell:
        explanation = explain_target(arguments.target, question, tell)
    if explanation.note:
        print(f"memsched: {explanation.note}", file=sys.stderr)
    after = peaks_of(explanation, _torch_version())
    changes = compare(before, after)
    print_text(render_changes(changes, arguments.tolerance))
    if arguments.update:
        write_peaks(arguments.baseline, after)
        print(f"\n{arguments.baseline}: written")
        return EXIT_DONE
    if before.torch and before.torch != after.torch:
        print_text(f"\nThe baseline is of torch {before.torch}, this is {after.torch}.")
    return EXIT_ROSE if any(change.rose(arguments.tolerance) for change in changes) else EXIT_DONE


def _share(text: str) -> float:
    try:
        return parse_share(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


# ---- diff


def _declare_diff(parser: argparse.ArgumentParser) -> None:
    """The arguments of `memsched diff`."""
    what = "a baseline, an explanation --json, a plan, or a folder of `explain --plans`"
    for name in ("before", "after"):
        parser.add_argument(name, metavar=name.upper(), help=what)
    parser.add_argument("-o", "--output", metavar="PAGE", help="also draw both, of plans with their graphs: out.html")
    parser.add_argument("--json", action="store_true", help="print one memsched-diff/1 object")


def _run_diff(arguments: argparse.Namespace) -> int:
    """Print what changed between two files; always 0, `check` is the gate."""
    from memsched.render.baseline import changes_to_json, compare, peaks_of_plans, read_peaks, render_changes
    from memsched.render.planned_file import read_plans

    _check_output(arguments.output)
    paths = (arguments.before, arguments.after)
    drawn = [read_plans(path) for path in paths] if arguments.output else []  # a pipe is read once
    before, after = map(peaks_of_plans, drawn) if drawn else map(read_peaks, paths)
    if not before.graphs and not after.graphs:
        raise FormatError(f"{arguments.after}: there is no graph to compare")
    versions, changes = (before.torch, after.torch), compare(before, after)
    words = render_changes(changes, tensors_of_all=True)
    if drawn:
        from memsched.render.page.difference import render_difference_page

        page = render_difference_page(drawn[0], drawn[1], " -> ".join(paths), words)
        atomic_write(arguments.output, page.encode())
    if arguments.json:
        print(json.dumps(changes_to_json(changes, versions), separators=(",", ":")))
        return EXIT_DONE
    _print_versions(versions)
    print_text(words)
    return EXIT_DONE


def _print_versions(versions: Sequence[str]) -> None:
    if len(set(versions)) > 1:
        print_text(f"torch: {' -> '.join(version or 'unknown' for version in versions)}")


COMMANDS = (
    Command("explain", "why a step of a model peaks where it does, before it runs", _declare_explain, _run_explain),
    Command("check", "a gate for CI: exit 1 when a peak of a model rose", _declare_check, _run_check),
    Command("diff", "what changed between two baselines, explanations or plans", _declare_diff, _run_diff),
)

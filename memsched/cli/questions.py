"""`memsched explain | check | diff`: why a model peaks where it does, whether the peak rose, what changed."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence

from memsched.cli.command import EXIT_DONE, EXIT_ROSE, Command
from memsched.core.graphio import FormatError
from memsched.core.sizes import InputError, parse_share
from memsched.questions import explain_target

__all__ = ["COMMANDS"]


# ---- explain


def _declare_explain(parser: argparse.ArgumentParser) -> None:
    """The arguments of `memsched explain`."""
    _declare_target(parser)
    parser.add_argument("--quick", action="store_true", help="no experiments: no smaller batch, no checkpointing")
    parser.add_argument("--json", action="store_true", help="print one memsched-explanation/1 object")


def _run_explain(arguments: argparse.Namespace) -> int:
    """Print why a step peaks where it does."""
    found = explain_target(
        arguments.target, train=not arguments.inference, device=arguments.device, experiments=not arguments.quick
    )
    print(json.dumps(found.to_json(), separators=(",", ":")) if arguments.json else str(found))
    return EXIT_DONE


def _declare_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="MODULE:FUNCTION", help="a function that returns (model, batch)")
    parser.add_argument("--inference", action="store_true", help="plan no backward")
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
    from memsched.report.baseline import Peaks, compare, peaks_of, read_peaks, render_changes, write_peaks

    fresh = arguments.update and not os.path.exists(arguments.baseline)
    before = Peaks(()) if fresh else read_peaks(arguments.baseline)
    explanation = explain_target(
        arguments.target,
        train=not arguments.inference,
        device=arguments.device,
        experiments=False,
        stock=False,
    )
    after = peaks_of(explanation, _torch_version())
    changes = compare(before, after)
    print(render_changes(changes, arguments.tolerance))
    if arguments.update:
        write_peaks(arguments.baseline, after)
        print(f"\n{arguments.baseline}: written")
        return EXIT_DONE
    if before.torch and before.torch != after.torch:
        print(f"\nThe baseline is of torch {before.torch}, this is {after.torch}.")
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
    for name in ("before", "after"):
        parser.add_argument(name, metavar=name.upper(), help="a baseline, an explanation --json, or a plan")


def _run_diff(arguments: argparse.Namespace) -> int:
    """Print what changed between two files; always 0, `check` is the gate."""
    from memsched.report.baseline import compare, read_peaks, render_changes

    before, after = read_peaks(arguments.before), read_peaks(arguments.after)
    if not before.graphs and not after.graphs:
        raise FormatError(f"{arguments.after}: there is no graph to compare")
    _print_versions((before.torch, after.torch))
    print(render_changes(compare(before, after), tensors_of_all=True))
    return EXIT_DONE


def _print_versions(versions: Sequence[str]) -> None:
    if len(set(versions)) > 1:
        print(f"torch: {' -> '.join(version or 'unknown' for version in versions)}")


COMMANDS = (
    Command("explain", "why a step of a model peaks where it does, before it runs", _declare_explain, _run_explain),
    Command("check", "a gate for CI: exit 1 when a peak of a model rose", _declare_check, _run_check),
    Command("diff", "what changed between two baselines, explanations or plans", _declare_diff, _run_diff),
)

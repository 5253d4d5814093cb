"""What people ask about a model that they have not run: why does it peak, has the peak risen, what changed?

    memsched.explain(model, batch)                                 why the step peaks where it does, before it runs
    memsched explain train:step [--json] [--quick]                 the same from a terminal
    memsched check train:step --baseline peaks.json [--update]     exit 1 when the peak of a graph rose
    memsched diff before.json after.json                           two baselines, explanations or plans

Everything is planned, nothing is compiled or run on a device.  torch is imported by the functions that need it.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from memsched.core.graphio import FormatError
from memsched.core.sizes import InputError, parse_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memsched.report.explanation import Explanation

__all__ = [
    "EXIT_ROSE",
    "declare_check",
    "declare_diff",
    "declare_explain",
    "explain",
    "explain_target",
    "run_check",
    "run_diff",
    "run_explain",
]

EXIT_DONE, EXIT_ROSE = 0, 1


def explain(
    model: Any,
    *args: Any,
    train: bool = True,
    device: str = "cpu",
    optimizer: Any = None,
    experiments: bool = True,
    stock: bool = True,
) -> Explanation:
    """Why `model(*args)`, with its backward when `train`, peaks where it does; bytes of the memory model.

    device: where the model and its batch are; a device that is not there is an error, never a guess.
    optimizer: its state is counted among what the caller holds.
    experiments: also plan half the batch and checkpointed blocks; stock: also plan what stock Inductor would do.
    The model is planned, not compiled: it runs once or more on its traced graphs, and is left as it was.

    Raises:
        InputError: an unknown device, a model that does not compile, with `train` a model without a loss; one line.
    """
    from memsched.inductor.explain import plan_step
    from memsched.report.explanation import explain_step

    return explain_step(
        plan_step(
            model,
            args,
            train=train,
            device=device,
            optimizer=optimizer,
            experiments=experiments,
            stock=stock,
        )
    )


def explain_target(
    name: str, *, train: bool = True, device: str = "cpu", experiments: bool = True, stock: bool = True
) -> Explanation:
    """`explain` of what the function `module:function` builds; raises InputError."""
    from memsched.inductor.target import resolve_target

    target = resolve_target(name)
    return explain(
        target.model,
        *target.batch,
        train=train,
        device=device,
        optimizer=target.optimizer,
        experiments=experiments,
        stock=stock,
    )


# ---- explain


def declare_explain(parser: argparse.ArgumentParser) -> None:
    """The arguments of `memsched explain`."""
    _declare_target(parser)
    parser.add_argument("--quick", action="store_true", help="no experiments: no smaller batch, no checkpointing")
    parser.add_argument("--json", action="store_true", help="print one memsched-explanation/1 object")


def run_explain(arguments: argparse.Namespace) -> int:
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


def declare_check(parser: argparse.ArgumentParser) -> None:
    """The arguments of `memsched check`."""
    _declare_target(parser)
    parser.add_argument("--baseline", required=True, metavar="PEAKS", help="the file that holds the peaks so far")
    parser.add_argument("--tolerance", type=_share, default=0.0, metavar="SHARE", help="such as 1%% (default: 0)")
    parser.add_argument("--update", action="store_true", help="write the peaks of now to the baseline")


def run_check(arguments: argparse.Namespace) -> int:
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


def declare_diff(parser: argparse.ArgumentParser) -> None:
    """The arguments of `memsched diff`."""
    for name in ("before", "after"):
        parser.add_argument(name, metavar=name.upper(), help="a baseline, an explanation --json, or a plan")


def run_diff(arguments: argparse.Namespace) -> int:
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

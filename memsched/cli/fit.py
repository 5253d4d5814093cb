"""`memsched fit`: how far down a training step can go, what each rung costs, and whether it fits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from memsched.cli.command import EXIT_DONE, EXIT_INTERRUPTED, EXIT_ROSE, Command
from memsched.cli.plan import declare_device_memory, room_of
from memsched.cli.progress import Progress
from memsched.cli.text import columns, print_text
from memsched.cli.variation import Range, Values, varied_arguments
from memsched.core.sizes import InputError
from memsched.files.json_file import atomic_write
from memsched.fitting import Fit, FitPlanner
from memsched.levers.ladder import Rung
from memsched.planning import largest_that_fits
from memsched.render.figure import format_of
from memsched.render.text.fit import draw_ladder
from memsched.render.text.words import format_bytes

__all__ = ["COMMANDS"]

_EXAMPLES = """examples:
  memsched fit train:step                                  as far down as it goes, on the CPU
  memsched fit train:step --peak 0.5x -o ladder.svg        half of what stock needs, drawn; exit 1 when it cannot be met
  memsched fit train:step --device cuda --gpu h100         planned for a GPU that is not here
  memsched fit train:step --gpu h100 --device cuda --batch-size 1..64      the largest batch that fits, with its levers
  memsched fit train:step --peak 0.5x --vary length=512,1024,2048          a row for each

The function returns (model, batch) or (model, batch, optimizer).  With an optimizer, on the CPU, the step is that of
memsched.train_step.  Peaks are above parameters, optimizer state and batch.  Ctrl-C keeps the best that was found."""


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("target", metavar="MODULE:FUNCTION", help="a function that returns (model, batch)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda, for which no GPU is needed (default: cpu)")
    limit = declare_device_memory(parser)
    limit.add_argument("--peak", default="", metavar="SIZE|SHARE", help="the budget: 24GiB, or 0.5x of stock's peak")
    parser.add_argument(
        "--levers",
        default="auto",
        metavar="NAMES",
        help="of chunk_loss,recompute,chunk_tokens (default: auto, the first two)",
    )
    parser.add_argument("-o", "--output", metavar="FIGURE", help="draw the ladder to this .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print one memsched-fit/1 object")


def _run(arguments: argparse.Namespace) -> int:
    given, varied = varied_arguments(arguments.batch_size, arguments.vary)
    form = format_of(arguments.output) if arguments.output else ""
    room = room_of(arguments)
    if isinstance(varied, Range) and room is None:
        raise InputError(f"{varied.option}: a range needs --device-memory or --gpu to fit into")
    if isinstance(varied, Values) and arguments.output:
        raise InputError("--output: the figure is of one ladder, and --vary asks for several")
    names = [name.strip() for name in arguments.levers.split(",")]
    several: dict[Any, Fit] = {}
    try:
        with Progress(), FitPlanner(arguments.target, arguments.device, arguments.peak, names, room=room) as planner:
            if isinstance(varied, Values):
                several = _fit_values(planner, varied, given)
            else:
                if isinstance(varied, Range) and room is not None:
                    given |= {varied.name: _find_largest(planner, room, varied, given)}
                found = planner.fit(given, _tell_rung)
    except ValueError as error:
        raise InputError(str(error).removeprefix("memsched: ")) from None
    if isinstance(varied, Values):
        _print_several(varied.name, several, as_json=arguments.json)
        return max(map(_exit_of, several.values()))
    if arguments.output:
        atomic_write(arguments.output, draw_ladder(found.ladder, arguments.target, form))
    if arguments.json:
        print(json.dumps(found.to_json() | {"arguments": given}, separators=(",", ":")))
    else:
        print_text(str(found))
        if isinstance(varied, Range):
            largest = given[varied.name] if found.fits else "none"
            what = f"{varied.name.replace('_', ' ')} of {varied.first}..{varied.last}"
            print(f"largest {what} that fits: {largest}")
    return _exit_of(found)


def _exit_of(found: Fit) -> int:
    if found.ladder.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_DONE if found.fits else EXIT_ROSE


def _tell(text: str) -> None:
    print(f"memsched: {text}", file=sys.stderr, flush=True)


def _tell_rung(rung: Rung) -> None:
    _tell(f"{rung.setting}: {format_bytes(rung.peak)} at {rung.moment}")


def _find_largest(planner: FitPlanner, room: int, varied: Range, given: Mapping[str, Any]) -> int:
    """The largest number of the range that fits with some setting of the levers; the smallest, if none does."""

    def need(number: int) -> int:
        found = planner.fit({**given, varied.name: number})
        words = f"fits: {found.ladder.chosen.setting}" if found.fits else "does not fit"
        _tell(f"{varied.name.replace('_', ' ')} {number}: {format_bytes(found.needed)}, {words}")
        if found.ladder.interrupted:
            raise KeyboardInterrupt
        return found.needed

    largest = largest_that_fits(need, room, varied.first, varied.last)
    return varied.first if largest is None else largest


def _fit_values(planner: FitPlanner, varied: Values, given: Mapping[str, Any]) -> dict[Any, Fit]:
    """The ladder of each value, up to the one that Ctrl-C ended."""
    found: dict[Any, Fit] = {}
    for value in varied.values:
        _tell(f"{varied.name} {value}")
        found[value] = planner.fit({**given, varied.name: value}, _tell_rung)
        if found[value].ladder.interrupted:
            break
    return found


def _print_several(name: str, found: Mapping[Any, Fit], *, as_json: bool) -> None:
    """A row for each value: the chosen rung."""
    if as_json:
        fits = [{"value": value, **one.to_json()} for value, one in found.items()]
        print(json.dumps({"format": "memsched-fits/1", "varied": name, "fits": fits}, separators=(",", ":")))
        return
    rows = [[name, "first", "chosen", "of first", "setting", "peaks at", "fits"]]
    for value, one in found.items():
        first, chosen = one.ladder.rungs[0], one.ladder.chosen
        rows.append(
            [
                str(value),
                format_bytes(first.peak),
                format_bytes(chosen.peak),
                f"{chosen.peak / first.peak:.2f}",
                str(chosen.setting),
                str(chosen.moment),
                "yes" if one.fits else "no",
            ]
        )
    print_text(columns(rows, right=(1, 2, 3)))


COMMANDS = (Command("fit", "how far down a step can go, to a budget, and what each rung costs", _declare, _run),)

"""`memsched fit`: how far down a training step can go, what each rung costs, and whether it fits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from memsched.cli.command import EXIT_DONE, EXIT_INTERRUPTED, EXIT_ROSE, Command
from memsched.cli.plan import declare_device_memory, declare_train_step, room_of
from memsched.cli.progress import Progress
from memsched.cli.text import columns, print_text
from memsched.cli.variation import Range, Values, find_largest, largest_words, varied_arguments
from memsched.core.sizes import InputError, format_bytes
from memsched.files.json_file import atomic_write
from memsched.fitting import Fit, FitPlanner
from memsched.levers.ladder import Rung
from memsched.render.figure import checked_figure
from memsched.render.text.fit import draw_ladder

__all__ = ["COMMANDS"]

_EXAMPLES = """examples:
  memsched fit train:step                                  as far down as it goes, on the CPU
  memsched fit train:step --peak 0.5x -o ladder.svg        half of what stock needs, drawn; exit 1 when it cannot be met
  memsched fit train:step --device cuda --gpu h100         planned for a GPU that is not here
  memsched fit train:step --gpu h100 --device cuda --batch-size 1..64      the largest batch that fits, with its levers
  memsched fit train:step --peak 0.5x --vary length=512,1024,2048          a row for each

The function returns (model, batch) or (model, batch, optimizer).  With an optimizer the step is that of
memsched.train_step; with --no-train-step that of the compiled model, and behind it the optimizer's own.  Peaks are
above parameters, optimizer state and batch.  Ctrl-C keeps the best that was found."""


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
        help="of chunk_loss,recompute,chunk_tokens,offload (default: auto, the first two)",
    )
    parser.add_argument(
        "--every-layer",
        action="store_true",
        help="for cuda: plan every rung with all layers; else those of a deep model are estimated from few layers, and "
        "only the one that is chosen is planned so",
    )
    declare_train_step(parser, " (default: where it does)")
    parser.add_argument("-o", "--output", metavar="FIGURE", help="draw the ladder to this .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print one memsched-fit/1 object")


def _run(arguments: argparse.Namespace) -> int:
    room = room_of(arguments)
    given, varied = varied_arguments(arguments.batch_size, arguments.vary, room)
    form = _form_of(arguments.output, varied)
    names = [name.strip() for name in arguments.levers.split(",")]
    several: dict[Any, Fit] = {}
    try:
        planner = FitPlanner(
            arguments.target,
            arguments.device,
            arguments.peak,
            names,
            room=room,
            train_step=arguments.train_step,
            every_layer=arguments.every_layer,
        )
        with Progress() as tell, planner:
            if isinstance(varied, Values):
                several = _fit_values(planner, varied, given)
            else:
                if isinstance(varied, Range) and room is not None:
                    given[varied.name] = find_largest(varied, room, _need(planner, varied, dict(given)), tell)
                found = planner.fit(given, _tell_rung)
    except ValueError as error:
        raise InputError(str(error).removeprefix("memsched: ")) from None
    for note in dict.fromkeys(one.note for one in several.values() or [found] if one.note):
        _tell(note)
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
            print(largest_words(varied, given[varied.name], found.fits))
    return _exit_of(found)


def _form_of(output: str | None, varied: Values | Range | None) -> str:
    """The format of the figure, "" for none; raises InputError before minutes of work."""
    if not output:
        return ""
    if isinstance(varied, Values):
        raise InputError("--output: the figure is of one ladder, and --vary asks for several")
    return checked_figure(output)


def _exit_of(found: Fit) -> int:
    if found.ladder.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_DONE if found.fits else EXIT_ROSE


def _tell(text: str) -> None:
    print(f"memsched: {text}", file=sys.stderr, flush=True)


def _tell_rung(rung: Rung) -> None:
    about = "about " if rung.estimated else ""
    _tell(f"{rung.setting}: {about}{format_bytes(rung.peak)} at {rung.moment}")


def _need(planner: FitPlanner, varied: Range, given: Mapping[str, Any]) -> Callable[[int], tuple[int, str]]:
    """For `find_largest`: what the step needs with the first setting of the levers that fits, or with the lowest."""

    def need(number: int) -> tuple[int, str]:
        found = planner.fit({**given, varied.name: number}, confirm=False)
        if found.ladder.interrupted:
            raise KeyboardInterrupt
        return found.needed, f"fits: {found.ladder.chosen.setting}" if found.fits else "does not fit"

    return need


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

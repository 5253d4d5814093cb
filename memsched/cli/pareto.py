"""`memsched pareto MODULE:FUNCTION`: what a lower peak costs in kernels, and with --measure in time.

memsched pareto train:step                                   slacks of 0 to 100% of the planned peak, beside stock
memsched pareto train:step --slack 0 0.05 --budget 0.8x      only these
memsched pareto train:step --measure -o trade.svg            also compile each and time its step; draw
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from memsched.cli.command import EXIT_DONE, Command
from memsched.cli.progress import Progress
from memsched.cli.text import print_columns
from memsched.core.sizes import InputError
from memsched.files.json_file import atomic_write
from memsched.records.tradeoff import TradePoint, frontier
from memsched.render.figure import checked_figure

if TYPE_CHECKING:
    from memsched.inductor.options import BackendOptions

__all__ = ["COMMANDS"]


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="MODULE:FUNCTION", help="a function that returns (model, batch)")
    parser.add_argument("--slack", type=float, nargs="+", metavar="SHARE", help="of the planned peak, such as 0.05")
    parser.add_argument("--budget", nargs="+", default=[], metavar="SIZE", help="such as 1.5GiB, or 0.8x of stock")
    parser.add_argument("--max-extra-kernels", type=int, metavar="N", help="refusals a graph may have in every plan")
    parser.add_argument("--inference", action="store_true", help="plan no backward")
    parser.add_argument("--device", default="cpu", help="where the model and its batch are (default: cpu)")
    parser.add_argument("--measure", action="store_true", help="also compile every plan and time a step (minutes)")
    parser.add_argument("-o", "--output", metavar="FIGURE", help="draw to this .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print one memsched-tradeoff/1 object")


def _run(arguments: argparse.Namespace) -> int:
    form = checked_figure(arguments.output) if arguments.output else ""
    with Progress() as tell:
        points = _points(arguments, tell)
    if arguments.output:
        from memsched.render.text.pareto import draw_tradeoff

        atomic_write(arguments.output, draw_tradeoff(points, arguments.target, form))
    if arguments.json:
        print(json.dumps(_to_json(arguments.target, points), separators=(",", ":")))
        return EXIT_DONE
    from memsched.render.text.pareto import tradeoff_table

    print_columns(tradeoff_table(points), right=(1, 2, 3, 4, 5, 6, 7) if arguments.measure else (1, 2, 3, 4, 5))
    return EXIT_DONE


def _points(arguments: argparse.Namespace, tell: Progress) -> list[TradePoint]:
    from memsched.inductor.questions.sweep import measure_point, sweep_target

    options, train = _options(arguments), not arguments.inference
    points = sweep_target(arguments.target, options, train=train, device=arguments.device, progress=tell)
    if not arguments.measure:
        return points
    measured = []
    for at, (point, option) in enumerate(zip(points, [None, *options], strict=True)):
        tell(f"compiling {point.label} ({at + 1} of {len(points)})")
        measured.append(dataclasses.replace(point, seconds=measure_point(arguments.target, option, train=train)))
    return measured


def _options(arguments: argparse.Namespace) -> list[BackendOptions]:
    from memsched.inductor.options import BackendOptions
    from memsched.inductor.questions.sweep import SLACKS

    slacks = arguments.slack if arguments.slack is not None else [] if arguments.budget else SLACKS
    limit: dict[str, Any] = {"max_extra_kernels": arguments.max_extra_kernels}
    try:
        options = [BackendOptions(fusion_slack=slack, **limit) for slack in slacks]
        return options + [BackendOptions(fusion="budget", peak_budget=size, **limit) for size in arguments.budget]
    except ValueError as error:
        raise InputError(str(error).removeprefix("memsched: ")) from None


def _to_json(target: str, points: list[TradePoint]) -> dict[str, object]:
    rows = [dataclasses.asdict(point) for point in points]
    labels = [point.label for point in frontier(points)]
    return {"format": "memsched-tradeoff/1", "target": target, "points": rows, "frontier": labels}


COMMANDS = (Command("pareto", "what a lower peak costs in kernels and in time", _declare, _run),)

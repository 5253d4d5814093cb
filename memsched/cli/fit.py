"""`memsched fit`: how far down a training step can go, what each rung costs, and whether it fits a budget."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from memsched.cli.command import EXIT_DONE, EXIT_ROSE, Command
from memsched.cli.progress import Progress
from memsched.cli.text import print_text
from memsched.core.sizes import InputError
from memsched.fitting import fit_target
from memsched.render.text.words import format_bytes

__all__ = ["COMMANDS"]

_EXAMPLES = """examples:
  memsched fit train:step                                  as far down as it goes, on the CPU
  memsched fit train:step --peak 0.5x                      half of what stock needs; exit 1 when that cannot be met
  memsched fit train:step --device cuda --peak 24GiB       planned for a GPU that is not here

The function returns (model, batch) or (model, batch, optimizer).  With an optimizer, on the CPU, the step is that of
memsched.train_step.  Peaks are above parameters, optimizer state and batch."""


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("target", metavar="MODULE:FUNCTION", help="a function that returns (model, batch)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda, for which no GPU is needed (default: cpu)")
    parser.add_argument("--peak", default="", metavar="SIZE|SHARE", help="the budget: 24GiB, or 0.5x of stock's peak")
    parser.add_argument(
        "--levers",
        default="auto",
        metavar="NAMES",
        help="of chunk_loss,recompute,chunk_tokens (default: auto, the first two)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="given to the function")
    parser.add_argument("--json", action="store_true", help="print one memsched-fit/1 object")


def _run(arguments: argparse.Namespace) -> int:
    def tell(text: str) -> None:
        print(f"memsched: {text}", file=sys.stderr, flush=True)

    def on_rung(rung: Any) -> None:
        tell(f"{rung.setting}: {format_bytes(rung.peak)} at {rung.moment}")

    names = [name.strip() for name in arguments.levers.split(",")]
    given = {} if arguments.batch_size is None else {"batch_size": arguments.batch_size}
    try:
        with Progress():
            found = fit_target(
                arguments.target, arguments.device, arguments.peak, names, arguments=given, on_rung=on_rung
            )
    except ValueError as error:
        raise InputError(str(error).removeprefix("memsched: ")) from None
    if arguments.json:
        print(json.dumps(found.to_json(), separators=(",", ":")))
    else:
        print_text(str(found))
    return EXIT_DONE if found.fits else EXIT_ROSE


COMMANDS = (Command("fit", "how far down a step can go, to a budget, and what each rung costs", _declare, _run),)

"""`memsched plan`: will a step fit on a device that is not here, and with which batch?"""

from __future__ import annotations

import argparse
import json
import re
import sys

from memsched.cli.command import EXIT_DONE, Command
from memsched.cli.progress import Progress
from memsched.cli.text import print_columns
from memsched.core.sizes import InputError, parse_bytes
from memsched.planning import Prediction, StepPlanner, largest_batch
from memsched.render.text.words import format_bytes

__all__ = ["COMMANDS"]

_RESERVE = "1GiB"

_NOT_SEEN = "the CUDA context, fragmentation, workspaces of cuDNN, the optimizer's own step"


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", metavar="MODULE:FUNCTION", help="a function that returns (model, batch)")
    parser.add_argument("--device", default="cuda", help="cuda (no GPU is needed) or cpu (default: cuda)")
    parser.add_argument("--device-memory", metavar="SIZE", help="what the device has, such as 24GiB")
    parser.add_argument(
        "--batch-size", metavar="N|A..B", help="given to the function; a range: the largest of it that fits"
    )
    parser.add_argument("--reserve", default=_RESERVE, metavar="SIZE", help=f"left free of it (default: {_RESERVE})")
    parser.add_argument("--inference", action="store_true", help="plan no backward")
    parser.add_argument("--json", action="store_true", help="print one memsched-step-plan/1 object")
    parser.add_argument("--setup", action="store_true", help="download what plans for cuda need, once")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.setup:
        _set_up()
    if arguments.target is None:
        if arguments.setup:
            return EXIT_DONE
        raise InputError("MODULE:FUNCTION is missing")
    memory = None if arguments.device_memory is None else parse_bytes(arguments.device_memory)
    room = None if memory is None else memory - parse_bytes(arguments.reserve)
    sizes = _batch_sizes(arguments.batch_size)
    searching = sizes is not None and sizes[0] != sizes[1]
    if searching and room is None:
        raise InputError("--batch-size: a range needs --device-memory to fit into")
    with Progress() as tell, StepPlanner(arguments.target, arguments.device, train=not arguments.inference) as planner:
        batch = sizes[0] if sizes else None
        if searching and sizes is not None and room is not None:
            found = _search(planner, room, sizes, tell)
            batch = sizes[0] if found is None else found
        tell.about("" if batch is None else f"batch size {batch}")
        predictions = planner.plan(("stock", "memsched"), batch, tell)
    if arguments.json:
        print(json.dumps(_to_json(arguments, memory, room, batch, predictions), separators=(",", ":")))
    else:
        _print(arguments, memory, room, batch, predictions)
        if searching and sizes is not None:
            print(_largest_words(predictions[-1], room, batch, sizes))
    return EXIT_DONE


def _set_up() -> None:
    from memsched.inductor.cuda_without_gpu import CudaUnavailable, set_up

    try:
        set_up(lambda text: print(f"memsched: {text}", file=sys.stderr))
    except CudaUnavailable as error:
        raise InputError(str(error)) from None


def _batch_sizes(text: str | None) -> tuple[int, int] | None:
    """The first and the last batch size that are asked about; None when it is left to the function."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    first = int(match[1]) if match else 0
    last = int(match[2] or match[1]) if match else 0
    if not 1 <= first <= last:
        raise InputError(f"--batch-size: {text!r} is not a size such as 8, or a range such as 1..64")
    return first, last


def _search(planner: StepPlanner, room: int, sizes: tuple[int, int], tell: Progress) -> int | None:
    def need(batch: int) -> int:
        tell.about(f"batch size {batch}")
        peak = planner.plan(("memsched",), batch, tell)[0].peak
        tell.line(f"batch size {batch}: {format_bytes(peak)}, {'fits' if peak <= room else 'does not fit'}")
        return peak

    return largest_batch(need, room, *sizes)


def _largest_words(prediction: Prediction, room: int | None, batch: int | None, sizes: tuple[int, int]) -> str:
    if room is not None and prediction.peak > room:
        return f"no batch size of {sizes[0]}..{sizes[1]} fits"
    return f"largest batch size of {sizes[0]}..{sizes[1]} that fits: {batch}"


_PARTS = ("parameters", "buffers", "batch", "optimizer_state", "gradients", "saved", "transients", "workspace")


def _print(
    arguments: argparse.Namespace,
    memory: int | None,
    room: int | None,
    batch: int | None,
    predictions: list[Prediction],
) -> None:
    size = "" if batch is None else f", batch size {batch}"
    kind = "inference" if arguments.inference else "one training step"
    print(f"{arguments.target} on {arguments.device}{size}: {kind}")
    rows = [["", *(prediction.way for prediction in predictions)]]
    for part in _PARTS:
        values = [getattr(prediction, part) for prediction in predictions]
        if part == "optimizer_state" and None in values:
            rows.append(["optimizer state", *("not given" for _ in values)])
        elif any(values):
            rows.append([part.replace("_", " "), *map(format_bytes, values)])
    rows.append(["predicted peak", *(format_bytes(prediction.peak) for prediction in predictions)])
    rows.append(["peaks in", *(prediction.graph for prediction in predictions)])
    rows.append(["model's error", *(f"{prediction.model_error:+.2%}" for prediction in predictions)])
    rows.append(["kernels", *(str(prediction.kernels) for prediction in predictions)])
    if memory is not None and room is not None:
        rows.append([f"into {format_bytes(memory)}", *(_verdict(prediction, room) for prediction in predictions)])
    print_columns(rows, right=range(1, len(rows[0])))
    print(_bound_words(predictions[-1]))
    if room is not None:
        print(f"left free: {format_bytes(parse_bytes(arguments.reserve))} for what is not seen ({_NOT_SEEN})")


def _bound_words(prediction: Prediction) -> str:
    if not prediction.bound:
        return "how far memsched's order is from the best one is not known"
    gap = prediction.modelled / prediction.bound - 1
    least = "less" if gap <= 0 else f"less than 1/{1 + gap:.4f} of it"
    return f"no order of memsched's kernels needs {least} in {prediction.graph}"


def _verdict(prediction: Prediction, room: int) -> str:
    return "fits" if prediction.peak <= room else "does not fit"


def _to_json(
    arguments: argparse.Namespace, memory: int | None, room: int | None, batch: int | None, found: list[Prediction]
) -> dict[str, object]:
    return {
        "format": "memsched-step-plan/1",
        "target": arguments.target,
        "device": arguments.device,
        "batch_size": batch,
        "device_memory": memory,
        "ways": [
            prediction.to_json() | ({} if room is None else {"fits": prediction.peak <= room}) for prediction in found
        ],
    }


COMMANDS = (Command("plan", "will a step fit on a device that is not here, and with which batch", _declare, _run),)

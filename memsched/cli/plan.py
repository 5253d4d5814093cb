"""`memsched plan`: will a step fit on a device that is not here, and with which batch?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from memsched.cli.command import EXIT_DONE, Command
from memsched.cli.progress import Progress
from memsched.cli.text import print_columns
from memsched.cli.variation import Range, Values, Variation, find_largest, largest_words, plan_values, varied_arguments
from memsched.core.gpus import GPUS, memory_of
from memsched.core.sizes import InputError, format_bytes, parse_bytes
from memsched.planning import OPTIMIZER_STEP, Prediction, StepPlanner
from memsched.records.step import TRAIN_STEP

__all__ = ["COMMANDS", "declare_device_memory", "declare_train_step", "room_of"]

_RESERVE = "1GiB"

_NOT_SEEN = "the CUDA context, fragmentation, workspaces of cuDNN"


_EXAMPLES = """examples:
  memsched plan train:step --device-memory 24GiB                           does it fit, and what takes the bytes
  memsched plan train:step --gpu h100                                      the same for a GPU by its name
  memsched plan train:step --device-memory 24GiB --batch-size 1..64        the largest batch that fits
  memsched plan train:step --vary experts=4,8,16                           a table: any argument of the function
  memsched plan train:step --device-memory 24GiB --vary length=512..8192   the largest length that fits
  memsched plan train:step --gpu h100 --batch-size 1..64 --train-step      the same with memsched.train_step
"""


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "target", nargs="?", metavar="MODULE:FUNCTION", help="a function that returns (model, batch[, optimizer])"
    )
    parser.add_argument("--device", default="cuda", help="cuda (no GPU is needed) or cpu (default: cuda)")
    declare_device_memory(parser)
    parser.add_argument("--inference", action="store_true", help="plan no backward")
    declare_train_step(parser, "; what varies is planned for it (default: beside the others, where an optimizer is)")
    parser.add_argument("--json", action="store_true", help="print one memsched-step-plan/1 object")
    parser.add_argument("--setup", action="store_true", help="download what plans for cuda need, once")


def declare_train_step(parser: argparse.ArgumentParser, words: str) -> None:
    """`--train-step`, which is None unless it is given."""
    parser.add_argument(
        "--train-step",
        action=argparse.BooleanOptionalAction,
        help=f"plan memsched.train_step, for which the function returns an optimizer{words}",
    )


def declare_device_memory(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """The device's memory, and what varies to fit into it; returns the group of what says how much there is."""
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument("--device-memory", metavar="SIZE", help="what the device has, such as 24GiB")
    memory.add_argument("--gpu", metavar="NAME", help=f"or its name: {', '.join(GPUS)}")
    parser.add_argument(
        "--batch-size", metavar="N|A..B", help="given to the function; a range: the largest of it that fits"
    )
    parser.add_argument(
        "--vary", metavar="NAME=1,2,4|NAME=A..B", help="an argument of the function: a plan of each, or the largest"
    )
    parser.add_argument("--reserve", default=_RESERVE, metavar="SIZE", help=f"left free of it (default: {_RESERVE})")
    return memory


def _memory(arguments: argparse.Namespace) -> int | None:
    """Bytes of the device, where they are given."""
    if arguments.gpu is not None:
        return memory_of(arguments.gpu)
    return None if arguments.device_memory is None else parse_bytes(arguments.device_memory)


def room_of(arguments: argparse.Namespace) -> int | None:
    """Bytes of the device that a step may take; None where nothing says how many there are."""
    memory = _memory(arguments)
    return None if memory is None else memory - parse_bytes(arguments.reserve)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.setup:
        _set_up()
    if arguments.target is None:
        if arguments.setup:
            return EXIT_DONE
        raise InputError("MODULE:FUNCTION is missing")
    if arguments.inference and arguments.train_step:
        raise InputError("--train-step: --inference has no training step")
    memory, room = _memory(arguments), room_of(arguments)
    way = TRAIN_STEP if arguments.train_step else "memsched"
    given, varied = varied_arguments(arguments.batch_size, arguments.vary, room)
    found: Variation | None = None
    with Progress() as tell, StepPlanner(arguments.target, arguments.device, train=not arguments.inference) as planner:
        if isinstance(varied, Values):
            found = plan_values(planner, varied, given, tell, way=way)
        elif isinstance(varied, Range) and room is not None:
            name = varied.name

            def need(number: int) -> tuple[int, str]:
                (planned,) = planner.plan((way,), {**given, name: number}, tell)
                return planned.peak, _verdict(planned, room)

            given = {**given, name: find_largest(varied, room, need, tell)}
        if found is None:
            tell.about(", ".join(f"{name} {value}" for name, value in given.items()))
            asked = arguments.train_step or (arguments.train_step is None and not arguments.inference)
            ways = ("stock", "memsched", *([TRAIN_STEP] if asked else []))
            predictions = planner.plan(ways, given, tell, optional=() if arguments.train_step else (TRAIN_STEP,))
    for note in planner.notes:
        print(f"memsched: {note}", file=sys.stderr)
    if found is not None:
        print(found.to_json(arguments.target, arguments.device, room) if arguments.json else found.table(room))
        return EXIT_DONE
    for refusal in planner.refusals:
        print(f"memsched: not planned: {refusal}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(_to_json(arguments, memory, room, given, predictions), separators=(",", ":")))
        return EXIT_DONE
    _print(arguments, memory, room, given, predictions)
    if isinstance(varied, Range):
        (wanted,) = (one for one in predictions if one.way == way)
        print(largest_words(varied, given[varied.name], room is not None and wanted.peak <= room))
    return EXIT_DONE


def _set_up() -> None:
    from memsched.inductor.cuda_without_gpu import CudaUnavailable, set_up

    try:
        set_up(lambda text: print(f"memsched: {text}", file=sys.stderr))
    except CudaUnavailable as error:
        raise InputError(str(error)) from None


_PARTS = ("parameters", "buffers", "batch", "optimizer_state", "gradients", "saved", "transients", "workspace")


def _print(
    arguments: argparse.Namespace,
    memory: int | None,
    room: int | None,
    given: Mapping[str, Any],
    predictions: list[Prediction],
) -> None:
    size = "".join(f", {name.replace('_', ' ')} {value}" for name, value in given.items())
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
    for prediction in predictions[1:]:
        print(_bound_words(prediction))
    if room is not None:
        unknown = predictions[-1].optimizer_state is None and not arguments.inference
        not_seen = f"{_NOT_SEEN}, the optimizer's own step" if unknown else _NOT_SEEN
        print(f"left free: {format_bytes(parse_bytes(arguments.reserve))} for what is not seen ({not_seen})")


def _bound_words(prediction: Prediction) -> str:
    way = prediction.way
    if prediction.graph == OPTIMIZER_STEP:
        dies = "memsched.train_step lets them die as they are born"
        return f"{way}: the optimizer's step peaks: all gradients are there; {dies}"
    if not prediction.bound:
        return f"{way}: how far its order is from the best one is not known"
    gap = prediction.modelled / prediction.bound - 1
    least = "less" if gap <= 0 else f"less than 1/{1 + gap:.4f} of it"
    return f"{way}: no order of its kernels needs {least} in {'the step' if way == TRAIN_STEP else prediction.graph}"


def _verdict(prediction: Prediction, room: int) -> str:
    return "fits" if prediction.peak <= room else "does not fit"


def _to_json(
    arguments: argparse.Namespace,
    memory: int | None,
    room: int | None,
    given: Mapping[str, Any],
    found: list[Prediction],
) -> dict[str, object]:
    return {
        "format": "memsched-step-plan/1",
        "target": arguments.target,
        "device": arguments.device,
        "batch_size": given.get("batch_size"),
        "arguments": dict(given),
        "device_memory": memory,
        "ways": [prediction.to_json(room) for prediction in found],
    }


COMMANDS = (Command("plan", "will a step fit on a device that is not here, and with which batch", _declare, _run),)

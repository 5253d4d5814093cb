"""An argument of a step that varies: `--vary experts=4,8,16` plans each, `--vary length=512..8192` finds the largest.

`--batch-size A..B` is `--vary batch_size=A..B`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memsched.cli.progress import Progress
from memsched.cli.text import columns
from memsched.core.sizes import InputError, format_bytes
from memsched.planning import Prediction, StepPlanner, largest_that_fits

__all__ = ["Range", "Values", "Variation", "find_largest", "largest_words", "plan_values", "varied_arguments"]


@dataclass(frozen=True, slots=True)
class Values:
    """Every one of `values` is planned."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The largest of `first..last` that fits is looked for; option: where it was asked for."""

    name: str
    first: int
    last: int
    option: str

    @property
    def words(self) -> str:
        """The name of the argument, for people."""
        return self.name.replace("_", " ")


def varied_arguments(
    batch_size: str | None, vary: str | None, room: int | None
) -> tuple[dict[str, Any], Values | Range | None]:
    """What the function is given, and the argument that varies, by the options `--batch-size` and `--vary`.

    room: bytes that there are for a step, if that is known.

    Raises:
        InputError: something that is no size, no list and no range; two arguments that vary; a range without room.
    """
    given, varied = _arguments(batch_size, vary)
    if isinstance(varied, Range) and room is None:
        raise InputError(f"{varied.option}: a range needs --device-memory or --gpu to fit into")
    return given, varied


def _arguments(batch_size: str | None, vary: str | None) -> tuple[dict[str, Any], Values | Range | None]:
    varied = None if vary is None else _parse_variation(vary)
    if batch_size is None:
        return {}, varied
    size = _parse_sizes(batch_size)
    if isinstance(size, int):
        return {"batch_size": size}, varied
    if varied is not None:
        raise InputError("--batch-size and --vary: one of them may be a range or a list")
    return {}, size


def _parse_variation(text: str) -> Values | Range:
    """`NAME=1,2,4` or `NAME=A..B`; values are Python's, and anything else is a string.

    Raises:
        InputError: no name, no value, or a range that is none.
    """
    name, equals, rest = text.partition("=")
    values = tuple(part.strip() for part in rest.split(",") if part.strip())
    if not equals or not name.isidentifier() or not values:
        raise InputError(f"--vary: {text!r} is not NAME=1,2,4 or NAME=A..B")
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", rest):
        first, last = int(match[1]), int(match[2])
        if not 1 <= first < last:
            raise InputError(f"--vary: {text!r} is not a range such as {name}=1..64")
        return Range(name, first, last, "--vary")
    return Values(name, tuple(_value(part) for part in values))


def _parse_sizes(text: str) -> int | Range:
    """`N` or `A..B` of `--batch-size`.  Raises InputError."""
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    first = int(match[1]) if match else 0
    last = int(match[2] or match[1]) if match else 0
    if not 1 <= first <= last:
        raise InputError(f"--batch-size: {text!r} is not a size such as 8, or a range such as 1..64")
    return first if first == last else Range("batch_size", first, last, "--batch-size")


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@dataclass(frozen=True, slots=True)
class Variation:
    """The plans of stock and of one of memsched's ways for each value."""

    varied: Values
    given: Mapping[str, Any]
    plans: tuple[tuple[Prediction, Prediction], ...]

    def table(self, room: int | None) -> str:
        """A row for each value."""
        way = self.plans[0][1].way
        head = [self.varied.name, "stock", way, "of stock", "peaks in", "kernels"]
        rows = [[*head, "fits"] if room is not None else head]
        for value, (stock, planned) in zip(self.varied.values, self.plans, strict=True):
            row = [str(value), format_bytes(stock.peak), format_bytes(planned.peak)]
            row += [f"{planned.peak / stock.peak:.2f}", planned.graph, str(planned.kernels)]
            rows.append([*row, "yes" if planned.peak <= room else "no"] if room is not None else row)
        return columns(rows, right=(1, 2, 3, 5))

    def to_json(self, target: str, device: str, room: int | None) -> str:
        """A `memsched-step-plans/1` object."""
        rows = [
            {"value": value, "ways": [one.to_json(room) for one in ways]}
            for value, ways in zip(self.varied.values, self.plans, strict=True)
        ]
        told = {"format": "memsched-step-plans/1", "target": target, "device": device, "arguments": dict(self.given)}
        return json.dumps({**told, "varied": self.varied.name, "plans": rows}, separators=(",", ":"))


def plan_values(
    planner: StepPlanner, varied: Values, given: Mapping[str, Any], tell: Progress, *, way: str = "memsched"
) -> Variation:
    """The plans of every value, by stock and by `way`; raises InputError as `StepPlanner.plan` does."""
    plans = []
    for value in varied.values:
        tell.about(f"{varied.name} {value}")
        stock, planned = planner.plan(("stock", way), {**given, varied.name: value}, tell)
        plans.append((stock, planned))
    return Variation(varied, given, tuple(plans))


def find_largest(varied: Range, room: int, plan: Callable[[int], tuple[int, str]], tell: Progress) -> int:
    """The largest number of the range with which a step needs at most `room` bytes; the first, if none does.

    plan: of a number, the bytes that the step needs, and what is to be told of it.
    """

    def need(number: int) -> int:
        about = f"{varied.words} {number}"
        tell.about(about)
        needed, words = plan(number)
        tell.line(f"{about}: {format_bytes(needed)}, {words}")
        return needed

    largest = largest_that_fits(need, room, varied.first, varied.last)
    return varied.first if largest is None else largest


def largest_words(varied: Range, found: int, fits: bool) -> str:
    """What `find_largest` has found, in one line."""
    what = f"{varied.words} of {varied.first}..{varied.last}"
    return f"largest {what} that fits: {found}" if fits else f"no {what} fits"

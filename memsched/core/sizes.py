"""Sizes as people type and read them, tolerances such as "1%", and the error that names what they typed wrong.

parse_bytes("1.2GiB") == 1288490188        parse_bytes("500 MB") == 500_000_000        parse_share("1%") == 0.01
format_bytes(18334208) == "17.48 MiB"
"""

from __future__ import annotations

import math
import re

from memsched.core.graph import MAX_BYTES

__all__ = ["InputError", "format_bytes", "parse_bytes", "parse_share"]


class InputError(ValueError):
    """Something that was asked for cannot be done as it was asked: one line that names it."""


_SIZE = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>[a-z]*)\s*", re.IGNORECASE)

_UNITS = {"": 1, "b": 1, "byte": 1, "bytes": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _UNITS[f"{_letter}ib"] = 1024**_power
    _UNITS[f"{_letter}b"] = 1000**_power


_SHOWN_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def parse_bytes(text: str | int) -> int:
    """Bytes, rounded down: a number with a binary (KiB, MiB, GiB, ...) or decimal (kB, MB, GB, ...) unit, or without.

    Raises:
        InputError: anything else, or more than 2**62 bytes.
    """
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= MAX_BYTES:
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    factor = _UNITS.get(match["unit"].lower()) if match else None
    if match is None or factor is None or float(match["number"]) * factor > MAX_BYTES:
        raise InputError(f"{text!r} is not a size: write it as 1.2GiB, 500MB or a number of bytes")
    return int(float(match["number"]) * factor) if "." in match["number"] else int(match["number"]) * factor


def parse_share(text: str) -> float:
    """A share of one: "1%" and "0.01" are the same.  Raises InputError unless it is finite and at least 0."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise InputError(f"{text!r} is not a tolerance: write it as 1% or 0.01")
    return share


def format_bytes(count: int) -> str:
    """`count` in binary units with two decimals; exact below 1024."""
    unit = 0 if count < 1024 else min((count.bit_length() - 1) // 10, len(_SHOWN_UNITS) - 1)
    return f"{count} bytes" if not unit else f"{count / 1024**unit:.2f} {_SHOWN_UNITS[unit]}"

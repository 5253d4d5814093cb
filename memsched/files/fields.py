"""A JSON object whose fields are asked for by name and type.

    Fields("graph", {"ops": 3}).integer("ops")        3
    Fields("graph", {"ops": "3"}).integer("ops")      FormatError: ops: expected an integer, found '3'

Reading never trusts: every fault is one line with the path of the first offending field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from memsched.core.graph import MAX_BYTES

__all__ = ["Fields", "FormatError"]


class FormatError(ValueError):
    """A file that cannot be used: one line with the file, the field and the fault."""


class Fields:
    """A JSON object whose fields are asked for by name and type; a fault names the path to the field."""

    def __init__(self, where: str, data: object) -> None:
        if not isinstance(data, dict):
            raise FormatError(f"{where}: expected an object, found {_kind_of(data)}")
        self.where = where
        self.data: dict[str, Any] = data

    def expect_format(self, expected: str) -> None:
        found = self.data.get("format")
        if found != expected:
            raise FormatError(f"format: expected {expected!r}, found {str(found)[:40]!r}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._list(key)
        for at, value in enumerate(values):
            if not isinstance(value, str):
                raise self._wrong(f"{key}[{at}]", "a string", value)
        return tuple(values)

    def integer(self, key: str, default: int | None = None) -> int:
        return self._integer(key, self.data.get(key, default))

    def optional_integer(self, key: str) -> int | None:
        if key not in self.data:
            raise self._wrong(key, "an integer or null", None, missing=True)
        return None if self.data[key] is None else self.integer(key)

    def optional_number(self, key: str) -> float | None:
        value = self.data.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise self._wrong(key, "a number or null", value)
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        return tuple(self._integer(f"{key}[{at}]", value) for at, value in enumerate(self._list(key)))

    def pairs(self, key: str) -> tuple[tuple[int, int], ...]:
        rows = self._rows(key, 2)
        return tuple((row[0], row[1]) for row in rows)

    def triples(self, key: str) -> tuple[tuple[int, int, int], ...]:
        rows = self._rows(key, 3)
        return tuple((row[0], row[1], row[2]) for row in rows)

    def integer_map(self, key: str) -> dict[str, int]:
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return {name: self._integer(f"{key}.{name}", number) for name, number in value.items()}

    def objects(self, key: str, optional: bool = False) -> Iterator[Fields]:
        for at, value in enumerate(self._list(key, required=not optional)):
            yield Fields(self._path(f"{key}[{at}]"), value)

    def _rows(self, key: str, width: int) -> list[list[int]]:
        rows = []
        for at, row in enumerate(self._list(key)):
            if not isinstance(row, list) or len(row) != width:
                raise self._wrong(f"{key}[{at}]", f"{width} integers", row)
            rows.append([self._integer(f"{key}[{at}]", value) for value in row])
        return rows

    def _list(self, key: str, required: bool = False) -> list[Any]:
        value = self.data.get(key, None if required else [])
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return value

    def _integer(self, key: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "an integer", value)
        return value

    def _path(self, key: str) -> str:
        return key if self.where in ("graph", "plan") else f"{self.where}.{key}"

    def _wrong(self, key: str, expected: str, value: object, missing: bool = False) -> FormatError:
        path = self._path(key)
        found = "nothing" if missing or value is None else _kind_of(value)
        return FormatError(f"{path}: expected {expected}, found {found}")


def _kind_of(value: object) -> str:
    match value:
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
        case str():
            return repr(value if len(value) <= 40 else f"{value[:37]}...")
        case int() if abs(value) > MAX_BYTES:
            return f"an integer of {value.bit_length()} bits"
        case _:
            return json.dumps(value)

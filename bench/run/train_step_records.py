"""The results of `bench.run.train_step`: a record for each way of training, JSON lines, and a table of all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from memsched.files.json_file import atomic_write

__all__ = ["Key", "Record", "load", "markdown_table", "save"]

_MIB = 2**20

Key = tuple[str, str, str, str]
"""Model, optimizer, way and size."""


@dataclass
class Record:
    """One way of training one model; peak in bytes, times in seconds.

    size: of the model in the registry; "cpu" and "small" were measured on a CPU, "cuda" on a GPU.
    difference: the largest difference of a parameter from eager's, over the largest entry, after the same steps.
    curve: the largest difference of a loss from eager's in the steps that follow, over eager's first loss.
    """

    model: str
    optimizer: str
    way: str
    size: str
    peak: int | None = None
    compile_seconds: float | None = None
    step_seconds: float | None = None
    difference: float | None = None
    curve: float | None = None
    fault: str = ""
    report: dict[str, Any] = field(default_factory=dict)


def load(path: Path) -> dict[Key, Record]:
    if not path.exists():
        return {}
    records = [Record(**json.loads(line)) for line in path.read_text().splitlines() if not line.startswith('{"env')]
    return {(r.model, r.optimizer, r.way, r.size): r for r in records}


def save(measured: dict[Key, Record], path: Path) -> None:
    """Put `measured` in the place of what the file had: another run may have written to it in the meantime."""
    records = load(path) | measured
    environment = {"environment": {"torch": torch.__version__, "cores": os.cpu_count()}}
    lines = [json.dumps(environment), *(json.dumps(asdict(record)) for record in records.values())]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, ("\n".join(lines) + "\n").encode())
    atomic_write(path.with_suffix(".md"), markdown_table(list(records.values())).encode())


def markdown_table(records: Sequence[Record]) -> str:
    """One row for each way; ratios to the best of eager in backward, and of stock with the optimizer after it."""
    header = (
        "model",
        "size",
        "optimizer",
        "way",
        "peak MiB",
        "of stock",
        "of eager in backward",
        "step",
        "compile s",
        "differs",
        "curve",
    )
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    by_key = {(r.model, r.optimizer, r.way, r.size): r for r in records}
    for record in records:
        others = ((record.model, record.optimizer, way, record.size) for way in ("stock", "eager, in backward"))
        stock, inside = map(by_key.get, others)
        cells = (
            record.model,
            record.size,
            record.optimizer,
            record.way,
            f"{record.peak / _MIB:.2f}" if record.peak is not None else record.fault,
            _ratio(record, stock, "peak"),
            _ratio(record, inside, "peak"),
            _ratio(record, stock, "step_seconds"),
            f"{record.compile_seconds:.0f}" if record.compile_seconds else "",
            f"{record.difference:.0e}" if record.difference is not None else "",
            f"{record.curve:.0e}" if record.curve is not None else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ratio(record: Record, other: Record | None, what: str) -> str:
    value, base = getattr(record, what), getattr(other, what, None)
    return f"{value / base:.2f}" if value and base else ""

"""What a run measures: cases (model, size, policy, batch size, device), modes, and the rows of a run's folder.

    bench/results/NAME/environment.json     hardware and versions
    bench/results/NAME/rows.jsonl           one JSON object for each case and mode, appended as they finish

A row always says its `status`: ok, failed (an exception), wrong (other gradients than eager), out of memory, timeout or
killed, with the `reason`.  Bytes and seconds.
"""

from __future__ import annotations

import enum
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.models import MODELS, parse_policy
from memsched.files.json_file import atomic_write

__all__ = [
    "LOWERED",
    "MODES",
    "SUITES",
    "Case",
    "Depth",
    "Rows",
    "cases_of",
    "environment",
    "read_rows",
    "write_environment",
]

Row = dict[str, Any]

MODES = ("eager", "aot_eager", "stock", "stock_no_reorder", "order", "memsched")
"""Eager PyTorch; AOTAutograd without Inductor; Inductor; Inductor without its peak-memory reorder; memsched's order of
stock's fusions; memsched."""

LOWERED = ("stock", "stock_no_reorder", "order", "memsched")
"""The modes that have a modelled peak."""

SUITES = ("smoke", "ac", "shared", "moe", "images", "irregular", "hf", "all")


class Depth(enum.StrEnum):
    """How far a mode is compiled.

    KERNELS: whole; bytes, gradients and times are measured.  BYTES: kernels do nothing, so that the wrapper's real
    bytes are measured in seconds, and nothing else.  LOWERED: planned; nothing but eager is measured.
    """

    KERNELS = "kernels"
    BYTES = "bytes"
    LOWERED = "lowered"


@dataclass(frozen=True, slots=True)
class Case:
    """One model in one setting; all of its modes see the same weights and the same batch."""

    model: str
    size: str
    policy: str
    batch: int
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.model} {self.size} {self.policy} batch {self.batch}"

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells its rows from others."""
        return tuple(asdict(self).values())


def cases_of(
    suite: str,
    models: Sequence[str] = (),
    size: str = "cpu",
    device: str = "cpu",
    policies: Sequence[str] = (),
    batches: Sequence[str] = (),
) -> list[Case]:
    """The cases of a suite, or of the named models; without policies and batches each model has its own.

    A policy that marks blocks is left out for models that have none.  A batch size is a number, or a factor as in 2x.

    Raises:
        ValueError: an unknown suite, model, policy, or a batch size that is none; one line.
    """
    if suite not in SUITES:
        raise ValueError(f"--suite: {suite!r} is unknown (there are {', '.join(SUITES)})")
    for name in models:
        if name not in MODELS:
            raise ValueError(f"--models: {name!r} is unknown (there are {', '.join(MODELS)})")
    names = [name for name, entry in MODELS.items() if suite == "all" or suite in entry.suites]
    cases = []
    for name in models or names:
        entry = MODELS[name]
        own = entry.sizes[size].batch
        for policy in policies or (entry.policy,):
            marks_blocks = parse_policy(policy).function(0) is not None
            if entry.has_blocks or not marks_blocks:
                cases += [Case(name, size, policy, _batch_size(text, own), device) for text in batches or ("1x",)]
    return list(dict.fromkeys(cases))


def _batch_size(text: str, own: int) -> int:
    try:
        size = int(own * float(text[:-1])) if text.endswith("x") else int(text)
    except ValueError:
        size = -1
    if size < 0:
        raise ValueError(f"--batch-sizes: {text!r} is neither a number like 8 nor a factor like 2x")
    return max(1, size)


class Rows:
    """The rows of a run's folder: those that are there, and appending."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rows.jsonl"
        self.found = {row_key(row): row for row in read_rows(folder)} if self.path.exists() else {}

    def missing(self, case: Case, modes: Sequence[str], again: bool = False) -> list[str]:
        """The modes of a case without a row; with `again`, failures count as missing."""
        rows = {mode: self.found.get((*case.key, mode)) for mode in modes}
        return [mode for mode, row in rows.items() if row is None or (again and row["status"] != "ok")]

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows and keep them."""
        with self.path.open("a") as file:
            for row in rows:
                file.write(json.dumps(row) + "\n")
                self.found[row_key(row)] = row


def read_rows(folder: Path) -> list[Row]:
    """The rows of a run, the last one of each case and mode; a line that was cut off by a kill is left out.

    Raises:
        FileNotFoundError: the folder has no rows.
    """
    rows: dict[tuple[Any, ...], Row] = {}
    for line in (folder / "rows.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row_key(row)] = row
    return list(rows.values())


def row_key(row: Row) -> tuple[Any, ...]:
    """The case and the mode of a row."""
    return (*(row[name] for name in Case.__dataclass_fields__), row["mode"])


def environment(device: str) -> dict[str, Any]:
    """Hardware and versions: what a reader needs to judge the rows."""
    import torch

    found = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "compiler": _first_line(["g++", "--version"]),
        "commit": _first_line(["git", "rev-parse", "--short", "HEAD"]),
        "device": device,
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def write_environment(folder: Path, device: str) -> None:
    """Write `environment.json`; a list, with an entry for each machine and version that added rows."""
    path = folder / "environment.json"
    entries = json.loads(path.read_text()) if path.exists() else []
    entry = environment(device)
    if entry not in entries:
        atomic_write(path, json.dumps([*entries, entry], indent=1).encode() + b"\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _first_line(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""

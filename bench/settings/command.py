"""Where memsched runs: every set-up compiled for stock and for memsched, measured, and compared.

    python -m bench settings                       all of them, about twenty minutes on two cores
    python -m bench settings --only DDP "peft"     those whose name has one of the words
    python -m bench settings --table               only the table, from the rows that are there

Rows go to bench/results/settings.json, each as soon as it is there; the table into docs/where-it-runs.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import memsched
from bench.paths import DOCS, RESULTS
from bench.report.readme import replace_block
from bench.settings import distributed, inference, libraries, local
from bench.settings.setting import Setting, Step, compile_with
from memsched.files.json_file import atomic_write
from memsched.inductor.bytes.measure import measure_peak
from memsched.records.published import counters

__all__ = ["SETTINGS", "failing", "main", "markdown", "measure", "measured_row"]

SETTINGS: tuple[Setting, ...] = (*local.SETTINGS, *inference.SETTINGS, *libraries.SETTINGS, *distributed.SETTINGS)

PAGE = DOCS / "where-it-runs.md"
_FILE = "settings.json"

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, write rows and table; 1 when something is above stock or differs from it."""
    parser = argparse.ArgumentParser(prog="python -m bench settings", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", metavar="WORD", help="set-ups whose name has one of these words")
    parser.add_argument("--table", action="store_true", help="only the table, from the rows that are there")
    options = parser.parse_args(arguments)
    file = Path(RESULTS) / _FILE
    rows: dict[str, Row] = {row["name"]: row for row in (json.loads(file.read_text()) if file.exists() else [])}
    for setting in () if options.table else SETTINGS:
        if not options.only or any(word in setting.name for word in options.only):
            print(setting.name, file=sys.stderr, flush=True)
            rows[setting.name] = measured_row(setting)
            _write(file, rows)
    found = _write(file, rows)
    atomic_write(str(PAGE), replace_block(PAGE.read_text(), "settings", markdown(found).rstrip()).encode())
    print(markdown(found))
    return int(any(failing(row) for row in found))


def measured_row(setting: Setting) -> Row:
    """The row of one set-up; an error is a row, too."""
    about = {"name": setting.name, "group": setting.group}
    try:
        if setting.processes > 1:
            return {**about, **distributed.in_processes(setting.name, setting.processes)}
        return {**about, **measure(setting)}
    except Exception as error:
        return {**about, "why": f"{type(error).__name__}: {_first_words(error)[:200]}"}


def _first_words(error: Exception) -> str:
    """The line that says what went wrong: behind the account of a process that was started, the error's own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Unsupported)\b.*: ", line)]
    return (raised or lines or [""])[0]


def measure(setting: Setting) -> Row:
    """Peak of stock and of memsched, bytes; graphs that were planned and that fell back; whether the values agree."""
    logging.getLogger("memsched").setLevel(logging.ERROR)
    row: Row = {}
    values: dict[str, list[Tensor]] = {}
    for way in ("stock", "memsched"):
        torch._dynamo.reset()
        memsched.reset()
        torch.manual_seed(0)
        step = setting.make(compile_with(way, setting.plain))
        for _ in range(2):
            _ready(step)
            step.run()
        _ready(step)
        row[way] = measure_peak(step.run)
        _ready(step)
        step.run()
        values[way] = [value.detach().clone() for value in step.values()]
    reports = memsched.reports()
    row["plans"] = sorted([report.name, report.peak] for report in reports if not report.fallback)
    row["graphs"] = len(reports)
    row["fallbacks"] = [report.fallback for report in reports if report.fallback] or sorted(counters)
    row["difference"] = _difference(values["stock"], values["memsched"])
    return row


def _ready(step: Step) -> None:
    step.before()
    torch.manual_seed(1)


def _difference(stock: Sequence[Tensor], ours: Sequence[Tensor]) -> float:
    """The largest difference of two values over the largest value; infinite where they are not of one shape."""
    if len(stock) != len(ours) or any(a.shape != b.shape for a, b in zip(stock, ours, strict=True)):
        return math.inf
    pairs = [(a.double(), b.double()) for a, b in zip(stock, ours, strict=True) if a.numel()]
    largest = max((float(a.abs().max()) for a, _ in pairs), default=0.0)
    return max((float((a - b).abs().max()) for a, b in pairs), default=0.0) / (largest or 1.0)


_SAME = 2e-2
"""What bfloat16 rounds; everything else agrees to 1e-5."""

_SCALARS = 64


def failing(row: Row) -> bool:
    """Whether it did not run, needs more than stock, or computes something else."""
    return "why" in row or row["memsched"] > row["stock"] + _SCALARS or row["difference"] > _SAME


def _write(file: Path, rows: dict[str, Row]) -> list[Row]:
    """All rows into the file, in the order of `SETTINGS`, which are returned."""
    found = [rows[setting.name] for setting in SETTINGS if setting.name in rows]
    atomic_write(str(file), (json.dumps(found, indent=1) + "\n").encode())
    return found


def markdown(rows: Sequence[Row]) -> str:
    """The table, a block for each group."""
    header = "| set-up | graphs | stock KiB | memsched KiB | of stock | largest difference | |"
    lines = [header, "|---|---|---|---|---|---|---|"]
    group = ""
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            lines.append(f"| **{group}** | | | | | | |")
        lines.append(_line(row))
    good = [row for row in rows if not failing(row)]
    ratios = [row["memsched"] / row["stock"] for row in rows if row.get("stock")]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 1.0
    return "\n".join([*lines, "", f"{len(good)} of {len(rows)}; geometric mean {mean:.3f} of stock.", ""])


def _line(row: Row) -> str:
    if "why" in row:
        return f"| {row['name']} | | | | | | {row['why'].replace('|', '/')} |"
    ratio = f"{row['memsched'] / row['stock']:.2f}" if row["stock"] else ""
    notes = [*dict.fromkeys(row["fallbacks"])]
    if not row["graphs"]:
        notes.append("no graph was compiled")
    if row.get("same_plans") is False:
        notes.append("the ranks have other plans")
    cells = [row["name"], str(row["graphs"]), f"{row['stock'] / 1024:.1f}", f"{row['memsched'] / 1024:.1f}", ratio]
    return f"| {' | '.join(cells)} | {row['difference']:.0e} | {'; '.join(notes)} |"

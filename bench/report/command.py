"""Tables and figures of runs: `python -m bench report RUN... [--instances DIR] [--output DIR]`.

RUN is a folder of `python -m bench run`.  Written are report.md, rows.csv and the figures; the same rows give the same
files.  Where two runs hold the same case and mode, the later run on the command line counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report.figures import FIGURES, draw
from bench.report.instances import fusion_costs, methods, read_index
from bench.report.tables import Group, Table, group_rows, headline, tables
from bench.run.cases import Row, read_rows
from memsched.files.json_file import atomic_write

__all__ = ["main", "markdown"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; 2 when a run is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench report", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--instances", type=Path, metavar="DIR", help="captured graphs, for what fusion costs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: the first run's folder")
    options = parser.parse_args(arguments)
    try:
        rows = [row for run in options.runs for row in read_rows(run)]
        index = read_index(options.instances) if options.instances else []
        machines = [machine for run in options.runs for machine in json.loads((run / "environment.json").read_text())]
    except OSError as error:
        print(f"bench report: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    groups = group_rows(rows)
    folder: Path = options.output or options.runs[0]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw(groups)
    for name, picture in pictures.items():
        atomic_write(folder / f"{name}.png", picture)
    made = tables(groups) + ([fusion_costs(index), methods(index)] if index else [])
    command = " ".join(["python -m bench report", *(sys.argv[1:] if arguments is None else arguments)])
    atomic_write(folder / "report.md", markdown(groups, machines, list(pictures), command, made).encode())
    atomic_write(folder / "rows.csv", _csv(groups).encode())
    print(f"{folder}/report.md: {len(groups)} settings, {len(pictures)} figures")
    return 0


def markdown(
    groups: Sequence[Group], machines: Sequence[Row], pictures: Sequence[str], command: str, made: Sequence[Table]
) -> str:
    """The report as text."""
    lines = ["# Benchmark", "", f"Written by `{command}`.", "", *headline(groups), ""]
    for machine in _distinct(machines):
        lines.append("- " + ", ".join(f"{key} {value}" for key, value in machine.items() if value))
    lines.append("")
    for name in pictures:
        lines += [f"![{FIGURES[name].__doc__}]({name}.png)", ""]
    return "\n".join(lines) + "\n" + "\n".join(table.markdown() for table in made)


def _distinct(machines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each machine and version once; the commit is that of the last rows."""
    found: dict[str, dict[str, Any]] = {}
    for machine in machines:
        rest = {key: value for key, value in machine.items() if key != "commit"}
        found[json.dumps(rest)] = machine
    return list(found.values())


def _csv(groups: Sequence[Group]) -> str:
    """Every row, without what is told of each graph."""
    rows = [
        {key: value for key, value in row.items() if key != "graphs"}
        | {"timed_with": " ".join(row.get("timed_with", ()))}
        for group in groups
        for row in group.modes.values()
    ]
    import pandas

    # As objects: a column in which a value is missing keeps its whole numbers.
    return str(pandas.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n"))

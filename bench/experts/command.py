"""Systems around mixtures of experts, each claim decided by an experiment: `python -m bench experts`.

    python -m bench experts                      all of them, ten seeds: about nine minutes
    python -m bench experts patches --seeds 5    one
    python -m bench experts --quick --no-write   the smallest form of each, two seeds: half a minute
    python -m bench experts --table              only the page, from the rows that are there

Rows go to bench/results/experts/NAME.jsonl, tables between markers of docs/experts.md, pictures to docs/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from bench.experts import budget, memory, patches, precision, pruning, queues
from bench.experts.claims import Experiment, Row, claims_table
from bench.experts.figures import FIGURES, draw
from bench.paths import DOCS, RESULTS
from bench.report.readme import replace_block
from memsched.files.json_file import atomic_write

__all__ = ["EXPERIMENTS", "main", "page_with", "read_rows"]

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT for module in (patches, budget, queues, pruning, precision, memory)
}
FOLDER = RESULTS / "experts"
PAGE = DOCS / "experts.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiments that are named; print what each decides."""
    options = _parser().parse_args(argv)
    if options.seeds < 1:
        print(f"bench experts: --seeds {options.seeds} is none", file=sys.stderr)
        return 2
    missing = [name for name in options.name or EXPERIMENTS if options.table and not _file_of(name).exists()]
    if missing:
        print(f"bench experts: --table: {_file_of(missing[0])} does not exist", file=sys.stderr)
        return 2
    with _one_thread():
        for name in options.name or EXPERIMENTS:
            _run(EXPERIMENTS[name], options)
    return 0


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small products are slower on two threads, and what is summed in another order rounds differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(experiment: Experiment, options: argparse.Namespace) -> None:
    """Run one experiment, or read its rows; print what it decides, and write it down."""
    name = experiment.name
    if options.table:
        rows = read_rows(name)
    else:
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.process_time()
        rows = experiment.rows(2 if options.quick else options.seeds, options.quick)
        print(f"{name}: {time.process_time() - started:.0f} CPU seconds", file=sys.stderr, flush=True)
    print(f"## {experiment.title}\n\n{claims_table(experiment.claims(rows))}\n", flush=True)
    if not options.no_write:
        _write(name, rows, options.table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench experts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="*", choices=[*EXPERIMENTS, []], metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, default=10, metavar="N")
    parser.add_argument("--quick", action="store_true", help="the smallest form of each, two seeds")
    parser.add_argument(
        "--table", action="store_true", help="only the page and the pictures, from the rows that are there"
    )
    parser.add_argument("--no-write", action="store_true", help="only print")
    return parser


def read_rows(name: str) -> list[Row]:
    """The rows of an experiment that were written."""
    return [json.loads(line) for line in _file_of(name).read_text().splitlines()]


def _file_of(name: str) -> Path:
    return FOLDER / f"{name}.jsonl"


def _write(name: str, rows: Sequence[Row], only_table: bool) -> None:
    if not only_table:
        FOLDER.mkdir(exist_ok=True)
        atomic_write(_file_of(name), "".join(json.dumps(row) + "\n" for row in rows).encode())
    atomic_write(PAGE, page_with(PAGE.read_text(), name, rows).encode())
    if name in FIGURES:
        draw(name, rows, PAGE.with_name(f"experts_{name}.png"))


def page_with(page: str, name: str, rows: Sequence[Row]) -> str:
    """The page with what the rows of an experiment decide; raises ValueError when its markers are missing."""
    return replace_block(page, name, claims_table(EXPERIMENTS[name].claims(rows)))

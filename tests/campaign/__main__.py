"""`python -m tests.campaign [--topic T ...] [--count N] [--seed S]`: every random test at full size.

A topic is a module of this package with

    COUNT: int                                         # instances of the full campaign
    def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, object]

which calls `progress(instances done so far)` and returns at least {"instances": ..., "wrong": ...}.  Results go to
results.json beside this file, a topic at a time, with seed, versions and seconds; what other topics have there stays.
The exit code is 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import pkgutil
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from memsched.files.json_file import atomic_write

RESULTS = Path(__file__).with_name("results.json")
PACKAGES = ("ortools", "pulp", "highspy", "networkx", "numpy", "scipy")
DEFAULT_COUNT = 100_000
_SECONDS_BETWEEN_LINES = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Run the topics, print a line for each, and record the results."""
    topics = topic_names()
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__.splitlines()[0])
    parser.add_argument("--topic", action="append", choices=topics, help="default: all; may be repeated")
    parser.add_argument("--count", type=int, help="instances of each topic instead of its own full count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-record", action="store_true", help="do not touch results.json")
    arguments = parser.parse_args(argv)
    wrong = 0
    for name in arguments.topic or topics:
        module = importlib.import_module(f"tests.campaign.{name}")
        count = arguments.count or getattr(module, "COUNT", DEFAULT_COUNT)
        result = run_topic(module, name, count, arguments.seed)
        print(f"{name}: {json.dumps(result)}", flush=True)
        wrong += int(result["wrong"])
        if not arguments.no_record:
            record(name, result)
    return 1 if wrong else 0


def topic_names() -> list[str]:
    """The modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name[0] != "_")


def run_topic(module: ModuleType, name: str, count: int, seed: int) -> dict[str, Any]:
    """The result of one topic, with what is needed to repeat it."""
    started = time.perf_counter()
    with progress_bar(name, count) as progress:
        result = dict(module.run(count, seed, progress))
    return result | {
        "count": count,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "versions": versions(),
    }


@contextlib.contextmanager
def progress_bar(name: str, count: int) -> Iterator[Callable[[int], None]]:
    """A rich bar with the time left, on a terminal; otherwise a line every half a minute."""
    try:
        from rich import progress as bars
    except ImportError:
        bars = None  # type: ignore[assignment]
    if bars is None or not sys.stderr.isatty():
        yield _LineReporter(name, count)
        return
    from rich.console import Console

    columns = (bars.TextColumn(name), bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=count)
        yield lambda done: bar.update(task, completed=done)


class _LineReporter:
    """Prints how far a topic is and how long it may still take."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count
        self.started = self.last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if done and now - self.last > _SECONDS_BETWEEN_LINES:
            self.last = now
            minutes = (now - self.started) / done * (self.count - done) / 60
            print(f"{self.name}: {done} of {self.count}, {minutes:.1f} minutes left", file=sys.stderr, flush=True)


def record(name: str, result: dict[str, Any]) -> None:
    """Put one topic's result into results.json, whole or not at all."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = result
    atomic_write(RESULTS, (json.dumps(dict(sorted(results.items())), indent=1) + "\n").encode())


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def commit() -> str:
    """The commit that was tested, with a "+" when files differ from it; "" outside of a checkout."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "../../memsched", "."], cwd=folder).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")


if __name__ == "__main__":
    sys.exit(main())

"""The benchmark: every model in every mode, one process for each case, rows that can be resumed.

python -m bench run --suite ac                                     measured, CPU, all modes
python -m bench run --suite all --modes eager stock memsched --lower-only    modelled peaks, no C++ compiler
python -m bench run --suite ac --ac second selective --bytes-only  measured bytes in seconds, kernels do nothing
python -m bench run --models gpt unet --batch-sizes 1x 2x --ac none block budget-0.5
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.models import MODELS, POLICIES, SIZES
from bench.run.cases import MODES, SUITES, Case, Depth, Row, Rows, cases_of, write_environment

__all__ = ["main"]

_POLL_SECONDS = 0.2
Progress = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what has no row yet; 0 when every case has its rows (failures are rows), 2 on bad arguments."""
    options = _parser().parse_args(arguments)
    try:
        todo, rows, folder = _prepare(options)
    except ValueError as error:
        print(f"bench run: {error}", file=sys.stderr)
        return 2
    count = sum(len(modes) for _, modes in todo)
    if options.dry_run:
        for case, modes in todo:
            print(f"{case}: {' '.join(modes)}")
        print(f"{len(todo)} cases, {count} rows to measure, {len(rows.found)} rows in {folder}")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    write_environment(folder, options.device)
    repetitions = options.repetitions if options.jobs == 1 and options.depth is Depth.KERNELS else 0
    try:
        with tempfile.TemporaryDirectory(prefix="memsched-bench-") as cache, _progress(count) as (tell, advance):
            runner = _Runner(rows, repetitions, options.depth, options.timeout, cache)
            with ThreadPoolExecutor(options.jobs) as pool, runner.stopping_on_signals(pool):
                for done in [pool.submit(runner.run, case, modes, tell, advance) for case, modes in todo]:
                    done.result()
    except KeyboardInterrupt:
        print(f"bench run: stopped; {len(rows.found)} rows in {folder}, the same command goes on", file=sys.stderr)
        return 130
    bad = [row for row in rows.found.values() if row["status"] != "ok"]
    print(f"{len(rows.found)} rows in {folder}, {len(bad)} of them failures")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", choices=SUITES, default="smoke", help="which models (default: smoke)")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME",
                        help=f"these instead of a suite: {', '.join(MODELS)}")  # fmt: skip
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), metavar="MODE",
                        help=f"any of {', '.join(MODES)} (default: all)")  # fmt: skip
    parser.add_argument("--size", choices=SIZES, help="sizes of the models (default: those of the device)")
    parser.add_argument("--batch-sizes", nargs="+", default=[], metavar="N", help="numbers, or factors like 2x")
    parser.add_argument("--ac", nargs="+", default=[], metavar="POLICY",
                        help=f"checkpoint policies: {', '.join(POLICIES)} (default: each model's own)")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--lower-only", dest="depth", action="store_const", const=Depth.LOWERED, default=Depth.KERNELS,
                       help="modelled peaks without generating code; eager is still measured")  # fmt: skip
    depth.add_argument("--bytes-only", dest="depth", action="store_const", const=Depth.BYTES,
                       help="measured peaks of code whose kernels do nothing; no gradients, no times")  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=15, help="timed steps of each mode (default: 15)")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time; above 1 no times are taken")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one mode (default: 900)")
    parser.add_argument("--again", action="store_true", help="measure failures again")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: bench/results/SUITE-DEVICE")
    parser.add_argument("--dry-run", action="store_true", help="say what would be measured")
    return parser


def _prepare(options: argparse.Namespace) -> tuple[list[tuple[Case, list[str]]], Rows, Path]:
    """The cases with the modes that have no row yet.  Raises ValueError, one line."""
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("--device cuda: this machine has no GPU that torch can use")
    for name in ("jobs", "repetitions", "timeout"):
        if getattr(options, name) < (0 if name == "repetitions" else 1):
            raise ValueError(f"--{name}: {getattr(options, name)} is too small")
    size = options.size or options.device
    cases = cases_of(options.suite, options.models, size, options.device, options.ac, options.batch_sizes)
    name = "models" if options.models else options.suite
    suffix = "" if options.depth is Depth.KERNELS else f"-{options.depth}"
    folder = options.output or Path("bench/results") / f"{name}-{options.device}{suffix}"
    rows = Rows(folder)
    todo = [(case, rows.missing(case, options.modes, options.again)) for case in cases]
    return [(case, modes) for case, modes in todo if modes], rows, folder


@dataclass
class _Runner:
    """Runs cases, each in a fresh process; a process that dies costs one row and is started again for the rest.

    cache: the compiler's, of this run alone.  Whole graphs are never taken from it; C++ headers are compiled once, and
    a kernel that an earlier compile of the run has compiled already, mostly another mode of the case, is loaded.
    """

    rows: Rows
    repetitions: int
    depth: Depth
    timeout: float
    cache: str

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @contextmanager
    def stopping_on_signals(self, pool: ThreadPoolExecutor) -> Iterator[None]:
        """Interrupted or terminated, kill the processes that run and keep the rows that they gave."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        except BaseException:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)

    def run(self, case: Case, modes: list[str], tell: Progress, advance: Callable[[], None]) -> None:
        """Measure the modes of a case and append their rows."""
        left = list(modes)
        while left:
            found = self._process(case, left, tell)
            with self._lock:
                self.rows.add(found)
            for row in found:
                left.remove(row["mode"])
                advance()
            if self._stop.is_set():
                return

    def _process(self, case: Case, modes: list[str], tell: Progress) -> list[Row]:
        """The rows that one process gave; when it died, with one for the mode that it died in."""
        with tempfile.TemporaryDirectory(prefix="memsched-bench-") as place:
            task, events = Path(place) / "task.json", Path(place) / "events.jsonl"
            fields = {"repetitions": self.repetitions, "depth": self.depth}
            task.write_text(json.dumps({"case": asdict(case), "modes": modes, **fields}))
            own = {"TORCHINDUCTOR_CACHE_DIR": self.cache, "TORCHINDUCTOR_FX_GRAPH_CACHE": "0"}
            command = [sys.executable, "-m", "bench.run.child", str(task), str(events)]
            with (Path(place) / "errors").open("w+") as errors:
                process = subprocess.Popen(
                    command, stdout=errors, stderr=errors, env={**os.environ, **own}, start_new_session=True
                )
                ended = self._wait(process, events, lambda text: tell(f"{case}: {text}"))
                errors.seek(0)
                last = next((line for line in reversed(errors.read().splitlines()) if line.strip()), "")
            told = _events(events)
        return _rows_of(case, modes, told, ended, last)

    def _wait(self, process: subprocess.Popen[bytes], events: Path, tell: Progress) -> str:
        """Wait for the process; "ok", how it ended, or "timeout" or "stopped" when it was killed here.

        It is killed with all that it started, the C++ compiler among it: when nothing was told for too long, or when
        this run is stopped.
        """
        changed, size, doing = time.monotonic(), 0, ""
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            told = events.stat().st_size if events.exists() else 0
            if told != size:
                changed, size = time.monotonic(), told
                now = next((e["doing"] for e in reversed(_events(events)) if "doing" in e), "")
                if now != doing:
                    tell(doing := now)
            late = time.monotonic() - changed > self.timeout
            if late or self._stop.is_set():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return "timeout" if late else "stopped"
        code = process.returncode
        return "ok" if code == 0 else f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _events(path: Path) -> list[dict[str, Any]]:
    """What a process told so far, without a line that it has not finished."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def _rows_of(case: Case, modes: Sequence[str], told: Sequence[dict[str, Any]], ended: str, last: str) -> list[Row]:
    rows: list[Row] = [event["row"] for event in told if "row" in event]
    seconds = next((event["seconds"] for event in told if "seconds" in event), {})
    for row in rows:
        if row["mode"] in seconds:
            row |= {"seconds": seconds[row["mode"]], "timed_with": sorted(seconds)}
    missing = [mode for mode in modes if mode not in {row["mode"] for row in rows}]
    if not missing or ended == "stopped":
        return rows
    blamed = next((event["mode"] for event in reversed(told) if "doing" in event), None)
    # Before the first mode all of them fail for the same reason: a model that cannot be built.
    failed = missing if blamed is None else [missing[0]]
    status = ended if ended == "timeout" else "killed" if ended.startswith("signal") else "failed"
    reason = f"{ended}: {last}"[:300] if ended != "timeout" else "nothing happened for too long"
    return rows + [asdict(case) | {"mode": mode, "status": status, "reason": reason} for mode in failed]


@contextmanager
def _progress(count: int) -> Iterator[tuple[Progress, Callable[[], None]]]:
    """A bar with the time left on a terminal, else a line on stderr for each thing done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
    started = time.monotonic()
    finished = 0
    with Bar(*columns, TextColumn("{task.description}"), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=count)

        def tell(text: str) -> None:
            bar.update(task, description=text)
            if not console.is_terminal:
                print(f"[{time.monotonic() - started:6.0f} s, {finished}/{count}] {text}", file=sys.stderr, flush=True)

        def advance() -> None:
            nonlocal finished
            finished += 1
            bar.advance(task)

        yield tell, advance

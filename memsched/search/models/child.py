"""A solver in a process of its own, which can be killed without losing what it had found.

    parent                                 child: python -m memsched.search.models.child cpsat
      ── {"graph": ..., "floor": ...} ──>    solves, and reports while it does
      <── {"lower_bound": 4} ────────────
      <── {"lower_bound": 5, "order": [...]}
      <── {"finished": true, ...} ───────    then waits for the next graph

Why a process: a native solver holds the interpreter and does not always keep its time limit; it may exhaust the
memory; and OR-Tools and highspy cannot be loaded together (both bring a library called HiGHS; ortools 9.15 with
highspy 1.15 fails with undefined symbols, whichever comes first).  The child is the leader of a process group, so that
CBC, which it starts in turn, dies with it.

Its time is CPU time, its own and that of what it starts: a busy machine takes none of it.  A child that stands still
(stopped, swapped out, waiting for a lock) is given up after a few seconds.

What a child has reported counts, whether it was killed or died: a bound is never thrown away.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from memsched.core.graph import Graph
from memsched.files.graph_file import graph_from_json, graph_to_json
from memsched.search.models.cpsat import solve_cpsat
from memsched.search.models.ilp import solve_ilp
from memsched.search.models.model import ModelAnswer, ModelError, ModelLimits
from memsched.search.models.watch import ChildWatch

__all__ = ["SOLVERS", "ChildSolver", "solve_in_child"]

SOLVERS: tuple[str, ...] = ("cpsat", "ilp", "cbc", "model-ilp")
"""CP-SAT; the ILP with HiGHS; the ILP with CBC; the ILP as MODeL publishes it, with HiGHS."""

_SECONDS_TO_START = 20.0
_SECONDS_TO_STOP = 2.0
_SECONDS_BETWEEN_LOOKS = 0.2


def solve_in_child(
    solver: str, graph: Graph, incumbent: Sequence[int] | None, floor: int, limits: ModelLimits
) -> ModelAnswer:
    """One problem in a process of its own; see `ChildSolver.solve`."""
    with ChildSolver(solver) as child:
        return child.solve(graph, incumbent, floor, limits)


class ChildSolver:
    """A child process that solves one graph after the other with the solver of that name (one of `SOLVERS`).

    A context manager: the child is killed at the end.
    """

    def __init__(self, solver: str) -> None:
        if solver not in SOLVERS:
            raise ModelError(f"solver {solver!r} is unknown; there are {', '.join(SOLVERS)}")
        self._solver = solver
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __enter__(self) -> ChildSolver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def solve(self, graph: Graph, incumbent: Sequence[int] | None, floor: int, limits: ModelLimits) -> ModelAnswer:
        """The best order and bound that the solver finds; what it had found, when it had to be killed.

        incumbent: a topological order, as warm start and upper limit, or None.
        floor: bytes, a proved lower bound.
        Raises ModelError when the solver is missing or fails.
        """
        process = self._running()
        request = {
            "graph": graph_to_json(graph),
            "incumbent": None if incumbent is None else list(incumbent),
            "floor": floor,
            "seconds": limits.seconds,
            "work": limits.work if limits.work < math.inf else None,
            "seed": limits.seed,
            "variables": limits.variables,
        }
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self._answer(ModelAnswer(None, floor, finished=False), limits.seconds, ChildWatch(process.pid))

    def kill(self) -> None:
        """End the child and everything that it has started, now."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            package_folder = str(Path(__file__).resolve().parents[3])
            path = os.pathsep.join(filter(None, (package_folder, os.environ.get("PYTHONPATH"))))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "memsched.search.models.child", self._solver],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,
            )
            self._lines = queue.SimpleQueue()
            assert self._process.stdout is not None
            threading.Thread(target=_pump, args=(self._process.stdout, self._lines), daemon=True).start()
        return self._process

    def _answer(self, answer: ModelAnswer, seconds: float, watch: ChildWatch) -> ModelAnswer:
        """Follow the reports up to the last one, to the end of the child's time, or to its death."""
        watch.allow(_SECONDS_TO_START)
        reported = False
        while True:
            try:
                report = self._next_report(watch)
            except ModelError as error:
                if not reported:
                    raise
                return replace(answer, finished=False, repeatable=False, failure=str(error))
            if report is None:
                self.kill()
                return replace(answer, finished=False, repeatable=False)
            if "started" in report:
                watch.allow(seconds + _SECONDS_TO_STOP)
                continue
            reported = True
            order = answer.order if report["order"] is None else tuple(report["order"])
            bound = max(answer.lower_bound, report["lower_bound"])
            answer = ModelAnswer(order, bound, report["finished"], report["repeatable"])
            if report["last"]:
                return answer

    def _next_report(self, watch: ChildWatch) -> dict[str, Any] | None:
        """What the child says next; None when its time is over.  Raises ModelError when it dies or fails."""
        while True:
            try:
                line = self._lines.get(timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                if watch.over():
                    return None
                continue
            if line is None:
                raise self._failure()
            report: dict[str, Any] = json.loads(line)
            if "error" in report:
                raise ModelError(report["error"])
            return report

    def _failure(self) -> ModelError:
        """What the child said when it died."""
        assert self._process is not None and self._process.stderr is not None
        words = self._process.stderr.read().strip().splitlines()
        code = self._process.wait()
        self.kill()
        return ModelError(f"{self._solver} died with exit code {code}" + (f": {words[-1]}" if words else ""))


def _pump(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Move lines from a pipe, which cannot be read with a timeout, to a queue, which can."""
    with contextlib.suppress(ValueError):  # the stream was closed by `kill`
        for line in stream:
            lines.put(line)
    lines.put(None)


# ---- in the child


def main(solver: str) -> None:
    """Solve the problems that come in, one a line, until the parent closes the pipe."""
    # a solver that prints must not disturb the answers: they keep the pipe, everybody else gets stderr
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            _solve_one(solver, json.loads(line), answers)
        except ModelError as error:
            _send(answers, {"error": str(error)})


def _solve_one(solver: str, request: dict[str, Any], answers: IO[str]) -> None:
    graph = graph_from_json(request["graph"])
    limits = ModelLimits(
        seconds=request["seconds"],
        work=math.inf if request["work"] is None else request["work"],
        seed=request["seed"],
        variables=request["variables"],
    )
    _send(answers, {"started": True})
    arguments = graph, request["incumbent"], request["floor"], limits, _reporter(answers)
    match solver:
        case "cpsat":
            answer = solve_cpsat(*arguments)
        case "ilp":
            answer = solve_ilp(*arguments)
        case "cbc":
            answer = solve_ilp(*arguments, backend="cbc")
        case "model-ilp":
            answer = solve_ilp(*arguments, as_published=True)
        case _:
            raise ModelError(f"solver {solver!r} is unknown")
    _send(answers, _report(answer, last=True))


def _reporter(answers: IO[str]) -> Callable[[ModelAnswer], None]:
    return lambda answer: _send(answers, _report(answer, last=False))


def _report(answer: ModelAnswer, last: bool) -> dict[str, Any]:
    return {
        "order": answer.order,
        "lower_bound": answer.lower_bound,
        "finished": answer.finished,
        "repeatable": answer.repeatable,
        "last": last,
    }


def _send(answers: IO[str], message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])

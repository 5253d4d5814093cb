"""The side that asks: a worker process as an object, and the plan of one step as a function.

plan = plan_cuda("train:step")                     # one process, one plan
with CudaWorker() as worker:                       # one process, many plans: torch is imported once
    plan = worker.plan("bench.models:build", arguments={"name": "moe", "size": "cuda"})
    rows = worker.call("bench.memory.cuda_plans:rows_of", "moe")
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from memsched.core.sizes import InputError
from memsched.inductor.cuda_without_gpu.environment import CudaUnavailable
from memsched.inductor.cuda_without_gpu.plans import StepPlan

__all__ = ["CudaWorker", "WorkerError", "plan_cuda"]

Progress = Callable[[str], None]


class WorkerError(RuntimeError):
    """A function failed in the worker; the message is the error's own, `details` its traceback there."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def plan_cuda(
    target: str,
    *,
    stock: bool = False,
    options: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> StepPlan:
    """The CUDA plan of the step that `module:function` builds, made in a process of its own; see `CudaWorker.plan`."""
    with CudaWorker() as worker:
        return worker.plan(
            target, stock=stock, options=options, batch_size=batch_size, arguments=arguments, progress=progress
        )


class CudaWorker:
    """A process that can plan for CUDA; a context manager.

    launcher: what Python is given before the worker's module; `memsched.patching.overlay` is one.

    Raises:
        CudaUnavailable: what is missing on this machine, in one line.
    """

    def __init__(self, launcher: Sequence[str] = ("-m",)) -> None:
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        # The module itself must not come first: its parents are imported without torch.
        command = [sys.executable, *launcher, "memsched.inductor.cuda_without_gpu.worker"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        try:
            self.answer()
        except BaseException:
            self.close()
            raise

    def plan(self, target: str, *, stock: bool = False, **how: Any) -> StepPlan:
        """`plans` of one way: of memsched, or of stock Inductor."""
        return self.plans(target, ways=("stock" if stock else "memsched",), **how)[0]

    def plans(self, target: str, *, progress: Progress | None = None, **how: Any) -> list[StepPlan]:
        """The CUDA plans of the step that `module:function` builds (`questions.target`), one for each way.

        how: see `ask_for_plans`.

        Raises:
            InputError: the function, or the model that it builds, cannot be planned; one line.
        """
        self.ask_for_plans(target, **how)
        plans: list[StepPlan] = self.answer(progress)
        return plans

    def ask_for_plans(
        self,
        target: str,
        *,
        ways: Sequence[str] = ("stock", "memsched"),
        options: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        arguments: Mapping[str, Any] | None = None,
        train: bool = True,
        optional: Sequence[str] = (),
        code: bool = True,
        depth: int = 0,
    ) -> None:
        """Ask for plans, which `answer` then waits for.

        options: of `BackendOptions`, and any of Inductor's own.
        batch_size: given to the function as its argument `batch_size`.
        arguments: further keyword arguments of the function.
        train: plan the backward too.
        optional: ways that are left out where the function returns no optimizer (`capture.plan_target`).
        code: generate wrappers and replay them; without it there are reports only.
        depth: how often the model repeats its blocks; 0 for as often as it does.
        """
        self.ask(
            "memsched.inductor.cuda_without_gpu.requests:plan_cuda_target",
            target,
            ways=tuple(ways),
            options=dict(options or {}),
            arguments=dict(arguments or {}) | ({} if batch_size is None else {"batch_size": batch_size}),
            train=train,
            optional=tuple(optional),
            code=code,
            depth=depth,
        )

    def call(self, target: str, *arguments: Any, progress: Progress | None = None, **keywords: Any) -> Any:
        """What the function named "package.module:function" returns when it is called in the worker.

        Raises:
            InputError, CudaUnavailable: raised by the function.
            WorkerError: any other error, or the end of the process.
        """
        self.ask(target, *arguments, **keywords)
        return self.answer(progress)

    def ask(self, target: str, *arguments: Any, **keywords: Any) -> None:
        """Have the function called; one question at a time.  Raises WorkerError where the process has ended."""
        assert self._process.stdin is not None
        try:
            pickle.dump((target, arguments, keywords), self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def answer(self, progress: Progress | None = None) -> Any:
        """What the function that was asked for returns; raises as `call` does."""
        assert self._process.stdout is not None
        while True:
            try:
                kind, *rest = pickle.load(self._process.stdout)
            except (EOFError, pickle.UnpicklingError):
                raise WorkerError(self._last_words()) from None
            if kind == "progress":
                if progress is not None:
                    progress(rest[0])
            elif kind == "result":
                return rest[0]
            else:
                name, message, details = rest
                known = {"InputError": InputError, "CudaUnavailable": CudaUnavailable}.get(name)
                raise known(message) if known else WorkerError(f"{name}: {message}", details)

    def _last_words(self) -> str:
        """Why the process ended, as far as its last line tells."""
        code = self._process.wait(timeout=10)
        lines = [line for line in _text(self._messages).splitlines() if line.strip()]
        if code == -signal.SIGKILL:
            return "the process that plans for CUDA was killed, as Linux does where memory runs out"
        return f"the process that plans for CUDA ended (exit code {code}): {lines[-1][:300] if lines else 'no message'}"

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._messages.close()

    def __enter__(self) -> CudaWorker:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")

"""Faults put into a real compile: whatever of memsched raises, the model compiles, computes the same, and is told once.

    a clean compile ──> which functions of memsched were called, and how often
      └─ one call of one of them raises ──> compile, run forward and backward
           ├─ the results are eager's; at most one warning for each graph
           └─ compiled once more without the fault: the plan of the clean compile

KeyboardInterrupt is the user's: it must come out, and leave nothing behind either.
"""

from __future__ import annotations

import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

import memsched
from memsched.inductor import failures
from memsched.records import published

COUNT = 200

_PACKAGE = str(Path(memsched.__file__).parent)
_ERRORS: tuple[type[BaseException], ...] = (
    *(RuntimeError, KeyError, AssertionError, MemoryError, RecursionError, OSError, IndexError, TypeError),
    KeyboardInterrupt,
)
QUICK: tuple[tuple[dict[str, Any], int], ...] = (({}, 4), ({"fusion": "stock"}, 2), ({"chunk_loss": 2}, 3))
_OPTIONS = (*QUICK, ({"peak_budget": "0.7x"}, 1))
"""Options of a compile, and how often they are taken; the last plans every rung: six times as long."""
_EXEMPT_FILES = ("options.py", Path(failures.__file__).name, Path(published.__file__).name)
"""What parses the user's options must raise; what tells of a failure cannot be told of itself."""
_CALL_INDUCTOR = ("compile_planned", "_compile_chunked", "_with_choices.<locals>.compile_with_choices")
"""What comes out of these may be Inductor's own, and must come out."""
_GUARDS = (
    *(f"PlanningSession.{name}" for name in ("before_fusion", "may_fuse", "after_fusion", "_guarded")),
    *("PlannedPartition._cut", "PlannedPartition._needs_less", "apply_guarded", "plan_key"),
    *("begin_session", "session_of", "_plan_has_room", "unsupported_reason", "_noted"),
)
"""What catches the failures of all that it calls, or calls nothing."""


class Model(torch.nn.Module):
    """A language model of two blocks that share their weights, with a checkpoint around each."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(64, 16)
        self.block = torch.nn.Sequential(
            torch.nn.LayerNorm(16), torch.nn.Linear(16, 48), torch.nn.GELU(), torch.nn.Linear(48, 16)
        )
        self.head = torch.nn.Linear(16, 64, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        for _ in range(2):
            hidden = hidden + checkpoint(self.block, hidden, use_reentrant=False)
        logits = self.head(hidden).view(-1, 64)
        return torch.nn.functional.cross_entropy(logits, tokens.view(-1))


class Fault:
    """Raises `error` in the call number `nth` (from 1) of the function with `code`; a context manager.

    With no `code` it counts the calls of memsched's functions instead.  Only calls from memsched itself: a function
    that PyTorch calls is a door, and faults are put behind it.
    """

    def __init__(self, code: CodeType | None = None, nth: int = 1, error: type[BaseException] = RuntimeError) -> None:
        self.code, self.nth, self.error = code, nth, error
        self.calls: Counter[CodeType] = Counter()
        self.raised = False

    def __enter__(self) -> Fault:
        sys.settrace(self._call)
        return self

    def __exit__(self, *how: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: object) -> None:
        code, caller = frame.f_code, frame.f_back
        if not code.co_filename.startswith(_PACKAGE) or not caller or _PACKAGE not in caller.f_code.co_filename:
            return
        if self.code is None:
            self.calls[code] += 1
        elif code is self.code and not self.raised:
            self.nth -= 1
            if not self.nth:
                self.raised = True
                raise self.error("a fault for the test")


def run(
    count: int, seed: int, progress: Callable[[int], None], kinds: Sequence[tuple[dict[str, Any], int]] = _OPTIONS
) -> dict[str, object]:
    """`count` compiles with a fault each; kinds: options of a compile, and how often they are taken."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    trial = Trial()
    faults: list[str] = []
    counts: Counter[str] = Counter()
    for done in range(count):
        options = rng.choices([options for options, _ in kinds], [often for _, often in kinds])[0]
        calls = trial.calls(options)
        code = rng.choice([code for code in calls if not _is_exempt(code)])
        fault = Fault(code, rng.randint(1, calls[code]), rng.choice(_ERRORS))
        where = f"{Path(code.co_filename).name}:{code.co_qualname} {fault.error.__name__} {options}"
        faults += [f"{where}: {wrong}" for wrong in trial.wrong(fault, options, counts)]
        progress(done + 1)
    return {"instances": count, "wrong": len(faults), "faults": faults[:20], **counts}


def _is_exempt(code: CodeType) -> bool:
    return code.co_filename.endswith(_EXEMPT_FILES) or code.co_qualname in (*_CALL_INDUCTOR, *_GUARDS)


class Trial:
    """The model, its batch, what eager computes, and what a clean compile with some options calls and plans."""

    def __init__(self) -> None:
        self.model = Model()
        self.tokens = torch.randint(64, (2, 12))
        self.expected = self._step(self.model)
        self._calls: dict[str, Counter[CodeType]] = {}
        self._peaks: dict[str, list[int]] = {}

    def calls(self, options: dict[str, Any]) -> Counter[CodeType]:
        """How often a clean compile with `options` calls each function of memsched."""
        key = str(options)
        if key not in self._calls:
            with Fault() as counting:
                self._compile(options)
            self._calls[key] = counting.calls
            self._peaks[key] = self._compile(options)[1]
        return self._calls[key]

    def wrong(self, fault: Fault, options: dict[str, Any], counts: Counter[str]) -> Iterator[str]:
        """What does not hold with the fault, and after it."""
        told = _Warnings()
        with told:
            try:
                with fault:
                    results, peaks = self._compile(options)
            except KeyboardInterrupt:
                counts["interrupted"] += 1
                results, peaks = self.expected, []
                if fault.error is not KeyboardInterrupt:
                    yield "KeyboardInterrupt from nowhere"
            except BaseException as error:
                results, peaks = self.expected, []
                yield f"the compile breaks: {type(error).__name__} {str(error).strip().splitlines()[:1]}"
        counts["raised"] += fault.raised
        counts["warned"] += bool(told.messages)
        counts["planned all the same"] += peaks == self._peaks[str(options)]
        if not _equal(results, self.expected):
            yield "other results"
        if len(told.messages) > 2:
            yield f"{len(told.messages)} warnings: {told.messages[:3]}"
        if self._compile(options)[1] != self._peaks[str(options)]:
            yield "the next compile has another plan"

    def _compile(self, options: dict[str, Any]) -> tuple[list[torch.Tensor], list[int]]:
        """Results of a step, and the peaks of what was planned."""
        torch._dynamo.reset()
        memsched.reset()
        config = {"fx_graph_cache": False, "cpp.threads": 1}
        with torch._inductor.config.patch(config), torch._functorch.config.patch(enable_autograd_cache=False):
            results = self._step(torch.compile(self.model, backend="memsched", options=options))
        return results, [report.peak for report in memsched.reports()]

    def _step(self, model: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        self.model.zero_grad()
        loss = model(self.tokens)
        loss.backward()
        return [loss.detach(), *(parameter.grad.clone() for parameter in self.model.parameters())]


class _Warnings(logging.Handler):
    """What memsched's logger is told, from warnings on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> _Warnings:
        logging.getLogger("memsched").addHandler(self)
        return self

    def __exit__(self, *how: object) -> None:
        logging.getLogger("memsched").removeHandler(self)


def _equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))

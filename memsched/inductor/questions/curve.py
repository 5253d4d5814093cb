"""What the allocator holds while a compiled step runs, on the time axis of the plan: statement by statement.

Inductor's generated wrapper launches the kernels in the order of the plan and names the buffers of the plan:

    statement                                   buffer    step of the plan    mark
    buf0 = empty_strided_cpu((8, 64), ...)      buf0      op0 is step 0       0.25
    extern_kernels.mm(x, w, out=buf0)                                         0.50
    del w                                                                     0.75
    buf3 = buf0; del buf0  # reuse              buf3      op3 is step 1       1.33

The step is compiled and run once.  Then a mark is put behind every statement of every wrapper, by giving its function
another code object, and the step runs again.  On CPU a mark is an event among the allocator's events in the profiler
(`memsched.inductor.bytes.measure`); on CUDA it reads the caching allocator.  The time between two marks does not
matter.
"""

from __future__ import annotations

import ast
import bisect
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch._functorch import config as functorch_config
from torch._inductor import config
from torch._inductor.codecache import PyCodeCache
from torch.profiler import ProfilerActivity, profile, record_function

from memsched.core.sizes import InputError
from memsched.inductor.backend import compile_planned
from memsched.inductor.calls import Batch, Model, call_model
from memsched.inductor.capture.lower import backward_of, traced_anew
from memsched.inductor.options import BackendOptions
from memsched.inductor.publish import SIGNATURE, sign
from memsched.records.report import GraphReport
from memsched.records.step import MeasuredCurve

__all__ = ["measure_step"]

_MARK = "_memsched_mark"


@dataclass(frozen=True, slots=True)
class _Sample:
    """At a mark of a wrapper: bytes now, and the most since the mark before; of the whole process."""

    wrapper: str
    mark: int
    level: int
    highest: int


def measure_step(
    model: Model, batch: Batch, options: BackendOptions, device: str
) -> tuple[list[GraphReport], dict[str, MeasuredCurve]]:
    """Compile and run `model` with `batch`, and the backward of its loss, and measure a second run.

    Returns the reports of its graphs, and the curve of each by name, as far as its wrapper is Python.

    Raises:
        InputError: the measured run did not call the compiled graphs again.
    """
    loaded, reported = len(PyCodeCache.modules), list[GraphReport]()

    def sink(report: GraphReport) -> None:
        sign(report)  # the wrapper is found by the name in it
        reported.append(report)

    def backend(gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        return compile_planned(gm, example_inputs, options, {}, sink)

    compiled = torch.compile(traced_anew(model), backend=backend, dynamic=False)
    # A graph out of a cache has no plan to compare with.
    with config.patch(fx_graph_cache=False), functorch_config.patch(enable_autograd_cache=False):
        _run(compiled, batch)
    wrappers = {name: module for module in PyCodeCache.modules[loaded:] for name in _signed_names(module)}
    planned = [report for report in reported if report.graph is not None and report.name in wrappers]
    marked = {report.name: _marked(wrappers[report.name], report) for report in planned}
    samples = _cuda_samples if torch.device(device).type == "cuda" else _cpu_samples
    taken = samples(lambda: _run(compiled, batch))
    if planned and not taken:
        raise InputError("nothing was measured: the second run of the step did not reach the compiled graphs")
    curves = {}
    for report in planned:
        own = [sample for sample in taken if sample.wrapper == report.name]
        if own:
            curves[report.name] = _curve(report, marked[report.name], own, device)
    return reported, curves


def _run(model: Model, batch: Batch) -> None:
    """One step; gradients accumulate."""
    backward_of(call_model(model, batch))


# ---- marks


def _signed_names(module: ModuleType) -> Iterator[str]:
    """The name of the graph that a generated module is of; nothing when memsched did not sign it."""
    for line in _source(module).splitlines():
        if line.startswith(SIGNATURE):
            yield line.removeprefix(SIGNATURE).partition(":")[0]


def _source(module: ModuleType) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return ""


def _marked(module: ModuleType, report: GraphReport) -> list[int | None]:
    """Put the marks into `call`; for each the step of the plan whose buffer its statement names, where it does."""
    tree = ast.parse(_source(module))
    function = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "call")
    steps = _step_of_buffer(report)
    names: list[int | None] = [None]
    function.body = list(_with_marks(function.body, steps, names))
    function.body.insert(0, _mark(0))
    body = ast.fix_missing_locations(ast.Module([function], []))
    namespace: dict[str, Any] = {}
    exec(compile(body, module.__file__ or report.name, "exec"), namespace)
    target = getattr(module.call, "__func__", module.call)
    target.__code__ = namespace["call"].__code__
    target.__globals__[_MARK] = lambda mark: _take(report.name, mark)
    return names


def _with_marks(statements: Sequence[ast.stmt], steps: dict[str, int], names: list[int | None]) -> Iterator[ast.stmt]:
    """`statements` with a mark behind each; inside of blocks, which open devices and streams, too."""
    for statement in statements:
        if isinstance(statement, (ast.With, ast.If)):
            statement.body = list(_with_marks(statement.body, steps, names))
        yield statement
        if isinstance(statement, ast.Return):
            continue
        written = [target.id for target in getattr(statement, "targets", ()) if isinstance(target, ast.Name)]
        known = [steps[name] for name in written if name in steps] if isinstance(statement, ast.Assign) else []
        yield _mark(len(names))
        names.append(max(known, default=None))


def _mark(number: int) -> ast.stmt:
    return ast.parse(f"{_MARK}({number})").body[0]


def _step_of_buffer(report: GraphReport) -> dict[str, int]:
    assert report.graph is not None and report.schedule is not None
    position = {op: step for step, op in enumerate(report.schedule.order)}
    return {buffer.name: position[buffer.producer] for buffer in report.graph.buffers if buffer.producer is not None}


# ---- samples

_recorder: Callable[[str, int], None] | None = None


def _take(wrapper: str, mark: int) -> None:
    """What a mark calls: nothing, unless somebody measures."""
    if _recorder is not None:
        _recorder(wrapper, mark)


def _recording(step: Callable[[], None], recorder: Callable[[str, int], None]) -> None:
    global _recorder
    _recorder = recorder
    try:
        step()
    finally:
        _recorder = None


def _cpu_samples(step: Callable[[], None]) -> list[_Sample]:
    """The profiler's memory events, summed up between the marks."""

    def recorder(wrapper: str, mark: int) -> None:
        with record_function(f"{_MARK}/{wrapper}/{mark}"):
            pass

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        _recording(step, recorder)
    kineto = profiler.profiler.kineto_results if profiler.profiler is not None else None
    assert kineto is not None, "the profiler kept no events"
    samples: list[_Sample] = []
    level = highest = 0
    for event in sorted(kineto.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]" and event.device_type() == torch._C._autograd.DeviceType.CPU:  # type: ignore[attr-defined]
            level += event.nbytes()
            highest = max(highest, level)
        elif event.name().startswith(_MARK):
            _, wrapper, mark = event.name().split("/")
            samples.append(_Sample(wrapper, int(mark), level, highest))
            highest = level
    return samples


def _cuda_samples(step: Callable[[], None]) -> list[_Sample]:
    """The caching allocator's own counters, read at the marks; it counts when Python asks, not when a kernel runs."""
    samples: list[_Sample] = []

    def recorder(wrapper: str, mark: int) -> None:
        level, highest = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        samples.append(_Sample(wrapper, mark, level, highest))

    _recording(step, recorder)
    return samples


# ---- the axis of steps


def _curve(report: GraphReport, steps: Sequence[int | None], samples: Sequence[_Sample], device: str) -> MeasuredCurve:
    """The samples of one wrapper in the steps of its plan, above the level at which the plan begins."""
    assert report.graph is not None
    offset = report.graph.start_bytes - samples[0].level
    place_of = _places(steps, len(report.graph.ops))
    places, levels = [place_of[samples[0].mark]], [report.graph.start_bytes]
    for sample in samples[1:]:
        places += [place_of[sample.mark], place_of[sample.mark]]
        levels += [sample.highest + offset, sample.level + offset]
    return MeasuredCurve(tuple(places), tuple(levels), f"measured on {device}, placed by the names of the buffers")


def _places(steps: Sequence[int | None], count: int) -> list[float]:
    """Where each mark belongs: the first of a step at its begin, those that follow spread until the next known step.

    A statement that names a buffer of an earlier step (one allocated late) does not go back.
    """
    firsts = [(0, 0)]
    for mark, step in enumerate(steps):
        if step is not None and step > firsts[-1][1]:
            firsts.append((mark, step))
    marks = [mark for mark, _ in firsts]
    places = []
    for mark in range(len(steps)):
        at = bisect.bisect_right(marks, mark) - 1
        first, step = firsts[at]
        end = firsts[at + 1][0] if at + 1 < len(firsts) else len(steps)
        places.append(min(count, step + (mark - first + 1) / (end - first + 1)))
    return places

"""Measured bytes: the exact peak of a callable, on CPU and on CUDA, by the allocator's own account.

On CPU the profiler's memory events are summed.  c10's CPU allocator reports every allocation and every free of tensor
storage, with its bytes, from whatever thread (c10/core/CPUAllocator.cpp, `ProfiledCPUMemoryReporter`), so the sum is
exact and has a time axis.  The alternative, a hook around the allocator (`c10::SetCPUAllocator`), gives the same peak
(both were compared) but needs a C++ build and gives no times.  Scratch memory that libraries take from `malloc` on
their own (oneDNN) is seen by neither.

On CUDA `torch.cuda.max_memory_allocated` is read: the bytes of live blocks, rounded by the allocator to 512.

    live bytes  ──┐       ┌──── peak: `MemoryTrace.peak`, above what was live before the call
                  │   ┌───┘
            start └───┘                                    what the caller keeps afterwards: `retained`
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["MemoryTrace", "measure_peak", "trace_memory"]


@dataclass(frozen=True, slots=True)
class MemoryTrace:
    """Live bytes above those at the start of the call.

    peak: the most that was live at once; bytes.
    retained: what was still live when the call returned; bytes.
    seconds, live_bytes: the curve, one entry for each allocation or free; empty on CUDA.
    """

    peak: int
    retained: int
    seconds: tuple[float, ...] = ()
    live_bytes: tuple[int, ...] = ()


def measure_peak(call: Callable[[], object], device: str = "cpu") -> int:
    """Peak bytes of `call()` above what is live before it; its result is dropped.  Run it once before, to warm up."""
    return trace_memory(call, device).peak


def trace_memory(call: Callable[[], object], device: str = "cpu") -> MemoryTrace:
    """The memory of one run of `call()`.

    Raises:
        ValueError: a device that is neither cpu nor cuda, or cuda without a GPU.
    """
    gc.collect()
    if device == "cpu":
        return _trace_cpu(call)
    if device == "cuda" and torch.cuda.is_available():
        return _trace_cuda(call)
    raise ValueError(f"cannot measure memory on {device!r}: " + ("no GPU" if device == "cuda" else "unknown device"))


def _trace_cpu(call: Callable[[], object]) -> MemoryTrace:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        result = call()
    kineto = profiler.profiler.kineto_results if profiler.profiler is not None else None
    assert kineto is not None, "the profiler kept no events"
    events = [event for event in kineto.events() if event.name() == "[memory]" and _is_cpu(event)]
    events.sort(key=lambda event: event.start_ns())
    del result
    live, peak, curve = 0, 0, []
    for event in events:
        live += event.nbytes()
        peak = max(peak, live)
        curve.append(live)
    start = events[0].start_ns() if events else 0
    seconds = tuple((event.start_ns() - start) * 1e-9 for event in events)
    return MemoryTrace(peak, live, seconds, tuple(curve))


def _is_cpu(event: object) -> bool:
    return bool(event.device_type() == torch._C._autograd.DeviceType.CPU)  # type: ignore[attr-defined]


def _trace_cuda(call: Callable[[], object]) -> MemoryTrace:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    trace = MemoryTrace(torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before)
    del result
    return trace

"""The measured memory of one training step, and what it consists of at its peak.

    live bytes      ┌─ transients ─┐ <── peak
                ┌───┴──────────────┴───┐
            ┌───┘  saved activations   └──┐  gradients
      start ┘ forward       │ backward    └────────────

saved        allocated in the forward pass and still alive when the backward pass begins (the loss is among them)
gradients    what the parameters' `.grad` hold after the step
transients   the rest

On CPU every allocation and free is an event of the profiler with its address, so the three add up to the peak exactly.
On CUDA only `torch.cuda`'s own counters are read: the peak and the sizes at the two ends, not the parts at the peak.
Parameters and the batch are alive before the step and are in none of these.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

__all__ = ["StepMemory", "measure_step", "tensor_bytes"]

_MARK = "bench: backward"


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes above what is live before the step; None where the device does not tell.

    forward, backward: on CUDA, the peaks of the two halves.
    """

    peak: int
    saved: int
    gradients: int
    peak_in: str | None = None
    saved_at_peak: int | None = None
    gradients_at_peak: int | None = None
    transients_at_peak: int | None = None
    reserved: int | None = None
    forward: int | None = None
    backward: int | None = None


def measure_step(model: nn.Module, forward: Callable[..., Tensor], batch: Sequence[Tensor], device: str) -> StepMemory:
    """The memory of `forward(*batch).backward()`; `model` holds the parameters, whose gradients must be None."""
    gc.collect()
    if device == "cuda":
        return _measure_cuda(forward, batch)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        loss = forward(*batch)
        with record_function(_MARK):
            loss.backward()  # type: ignore[no-untyped-call]
    kineto = profiler.profiler.kineto_results if profiler.profiler is not None else None
    assert kineto is not None, "the profiler kept no events"
    gradients = {p.grad.untyped_storage().data_ptr() for p in model.parameters() if p.grad is not None}
    return _attribute(_events(kineto.experimental_event_tree()), gradients)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of `tensors`, each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


Event = tuple[int, int] | None
"""(address, bytes), bytes below zero for a free; None where the backward pass begins."""


def _events(roots: Sequence[Any]) -> list[Event]:
    found: list[tuple[int, Event]] = []
    stack = list(reversed(roots))
    while stack:
        event = stack.pop()
        stack += reversed(event.children)
        if event.name == _MARK:
            found.append((event.start_time_ns, None))
        elif event.tag == torch._C._profiler._EventType.Allocation and event.typed[1].device.type == "cpu":
            found.append((event.start_time_ns, (event.typed[1].ptr, event.typed[1].alloc_size)))
    found.sort(key=lambda pair: pair[0])
    return [event for _, event in found]


def _attribute(events: Sequence[Event], gradients: set[int]) -> StepMemory:
    """Follow the live allocations, each by its index in `events`, to the peak and to both ends."""
    live: dict[int, tuple[int, int]] = {}  # address: (index of its allocation, bytes)
    level = peak = peak_at = 0
    at_peak, at_mark, mark = {}, {}, len(events)
    for at, event in enumerate(events):
        if event is None:
            at_mark, mark = dict(live.values()), at
            continue
        address, size = event
        level += size
        if size > 0:
            live[address] = (at, size)
        else:
            live.pop(address, None)
        if level > peak:
            peak, peak_at, at_peak = level, at, dict(live.values())
    kept = {index: size for address, (index, size) in live.items() if address in gradients}
    of_gradients = sum(size for index, size in at_peak.items() if index in kept)
    of_saved = sum(size for index, size in at_peak.items() if index in at_mark and index not in kept)
    return StepMemory(
        peak=peak,
        saved=sum(at_mark.values()),
        gradients=sum(kept.values()),
        peak_in="backward" if peak_at > mark else "forward",
        saved_at_peak=of_saved,
        gradients_at_peak=of_gradients,
        transients_at_peak=peak - of_gradients - of_saved,
    )


def _measure_cuda(forward: Callable[..., Tensor], batch: Sequence[Tensor]) -> StepMemory:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss = forward(*batch)
    torch.cuda.synchronize()
    saved, of_forward = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    of_backward, reserved = torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_reserved()
    del loss
    gradients, peak = torch.cuda.memory_allocated() - before, max(of_forward, of_backward)
    return StepMemory(peak, saved, gradients, reserved=reserved, forward=of_forward, backward=of_backward)

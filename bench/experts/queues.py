"""Expert queues of size B: a queue runs its expert when B samples wait.  Throughput against latency.

    sample ──> 2 of 8 experts ──> [ . . . ] B waiting, or the oldest waited T ──> one batch on the machine
    done when both of its experts have run

Service times of a batch are measured on this machine (CPU seconds, least of several); the queues are an event
simulation of one machine with Poisson arrivals, so that waiting costs nothing.  *Load* is the arrival rate over what
batches of one sustain.
"""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from bench.experts.claims import Claim, Experiment, Row, of, spread, verdict

__all__ = ["EXPERIMENT", "Machine", "simulate"]

_EXPERTS, _CHOSEN, _WIDTH, _HIDDEN = 8, 2, 256, 1024
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_LOADS = (0.5, 0.9, 1.5, 3.0)
_SAMPLES = 6000
_LAST_SHARE = 0.02
"""Samples at the end whose latency is not counted: what flushes the last queues is no steady state."""
_TIMEOUT_SERVICES = 64
"""The timeout, in service times of one sample."""


@dataclass
class Machine:
    """Queues of the experts, and one machine that runs ready batches one at a time, first ready first.

    sizes, seconds: what a batch of that many samples takes; between them by interpolation.
    """

    sizes: Sequence[int]
    seconds: Sequence[float]
    capacity: int
    timeout: float | None
    left: np.ndarray
    done: np.ndarray
    queues: list[list[int]] = field(default_factory=lambda: [[] for _ in range(_EXPERTS)])
    began: list[float] = field(default_factory=lambda: [0.0] * _EXPERTS)
    ready: list[tuple[float, int, list[int]]] = field(default_factory=list)
    timers: list[tuple[float, int, float]] = field(default_factory=list)
    free_at: float = 0.0
    held: int = 0
    most_held: int = 0
    batches: int = 0

    def arrive(self, sample: int, experts: Sequence[int], now: float) -> None:
        """Put a sample into the queues of its experts; full ones become ready."""
        self.advance(now)
        for expert in experts:
            if not self.queues[expert]:
                self.began[expert] = now
                if self.timeout is not None:
                    heapq.heappush(self.timers, (now + self.timeout, expert, now))
            self.queues[expert].append(sample)
            self.held += 1
            self.most_held = max(self.most_held, self.held)
            if len(self.queues[expert]) >= self.capacity:
                self._make_ready(expert, now)

    def advance(self, now: float) -> None:
        """Let timers and batches run up to `now`."""
        while self.timers and self.timers[0][0] <= now:
            at, expert, began = heapq.heappop(self.timers)
            if self.queues[expert] and self.began[expert] == began:
                self._make_ready(expert, at)
        while self.ready and max(self.free_at, self.ready[0][0]) < now:
            at, _, samples = heapq.heappop(self.ready)
            self.free_at = max(self.free_at, at) + float(np.interp(len(samples), self.sizes, self.seconds))
            self.batches += 1
            self.held -= len(samples)
            for sample in samples:
                self.left[sample] -= 1
                if not self.left[sample]:
                    self.done[sample] = self.free_at

    def flush(self, now: float) -> None:
        """Run what is left, full or not."""
        for expert in range(_EXPERTS):
            if self.queues[expert]:
                self._make_ready(expert, now)
        self.timers.clear()
        self.advance(float("inf"))

    def _make_ready(self, expert: int, at: float) -> None:
        heapq.heappush(self.ready, (at, expert, self.queues[expert]))
        self.queues[expert] = []


def simulate(
    seconds: dict[int, float], capacity: int, load: float, timeout: bool, seed: int, samples: int = _SAMPLES
) -> Row:
    """One run: throughput (samples a second), mean and 99th percentile of latency (ms), most bytes that wait."""
    generator = np.random.default_rng(seed)
    rate = load / (_CHOSEN * seconds[1])
    shares = 1 / np.arange(1, _EXPERTS + 1)
    arrivals = np.cumsum(generator.exponential(1 / rate, samples))
    chosen = [generator.choice(_EXPERTS, _CHOSEN, replace=False, p=shares / shares.sum()) for _ in range(samples)]
    machine = Machine(
        list(seconds), list(seconds.values()), capacity, _TIMEOUT_SERVICES * seconds[1] if timeout else None,
        np.full(samples, _CHOSEN), np.zeros(samples),
    )  # fmt: skip
    for sample, now in enumerate(arrivals):
        machine.arrive(sample, chosen[sample], now)
    machine.flush(arrivals[-1])
    latency = (machine.done - arrivals)[: int((1 - _LAST_SHARE) * samples)] * 1e3
    return {
        "B": capacity, "load": load, "timeout": timeout, "seed": seed,
        "throughput": samples / float(machine.done.max()),
        "mean ms": float(latency.mean()), "p99 ms": float(np.percentile(latency, 99)),
        "held": machine.most_held * _WIDTH * 4, "bound": _EXPERTS * capacity * _WIDTH * 4,
    }  # fmt: skip


def service_seconds(repeats: int = 40) -> dict[int, float]:
    """CPU seconds of a batch of each size through one expert."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(_WIDTH, _HIDDEN, generator=generator) * 0.06
    second = torch.randn(_HIDDEN, _WIDTH, generator=generator) * 0.03
    found = {}
    for size in _SIZES:
        x = torch.randn(size, _WIDTH, generator=generator)
        spent = []
        for _ in range(5):
            started = time.process_time()
            for _ in range(repeats):
                (x @ first).relu() @ second
            spent.append((time.process_time() - started) / repeats)
        found[size] = min(spent)
    return found


def rows(seeds: int, quick: bool) -> list[Row]:
    """Every size of queue at every load, with and without a timeout."""
    seconds = service_seconds()
    found: list[Row] = [{"what": "service", "B": size, "us": spent * 1e6} for size, spent in seconds.items()]
    for load in (0.5, 0.9) if quick else _LOADS:
        for timeout in (False,) if quick else (False, True):
            for capacity in _SIZES[:3] if quick else _SIZES:
                found += [{"what": "run"} | simulate(seconds, capacity, load, timeout, seed) for seed in range(seeds)]
    return found


def claims(found: Sequence[Row]) -> list[Claim]:
    """What the rows decide."""
    runs = [row for row in found if row["what"] == "run"]
    loads = sorted({row["load"] for row in runs})
    sizes = sorted({row["B"] for row in runs})
    best = {load: min(sizes, key=lambda size: _mean(runs, "mean ms", load, size)) for load in loads}
    decided = [
        Claim(
            "B = 1 has the least latency",
            "; ".join(f"load {load}: B = {size} ({_latency(runs, load, size)} ms)" for load, size in best.items()),
            verdict(all(size == 1 for size in best.values()), any(size == 1 for size in best.values())),
        )
    ]
    service = {row["B"]: row["us"] for row in found if row["what"] == "service"}
    most = {size: 1e6 * size / (_CHOSEN * spent) for size, spent in service.items()}
    rises = all(a < b for a, b in zip(most.values(), list(most.values())[1:], strict=False))
    decided.append(
        Claim(
            "a larger B has more throughput",
            f"{most[1]:,.0f} samples a second at B = 1, {most[max(most)]:,.0f} at {max(most)}",
            verdict(rises, most[max(most)] > most[1]),
        )
    )
    if len(loads) > 2:
        decided.append(_claim_of_bytes(runs))
    return decided


def _claim_of_bytes(runs: Sequence[Row]) -> Claim:
    """Queues hold M B tokens at most; one that is too small for the load holds more, since batches wait."""
    held = {size: statistics.mean(of(runs, "held", load=3.0, timeout=False, B=size)) for size in _SIZES}
    bounds = {row["B"]: row["bound"] for row in runs}
    within = {size: held[size] <= bounds[size] for size in _SIZES}
    shown = ", ".join(f"B = {size}: {held[size] / 1024:,.0f} of {bounds[size] / 1024:,.0f} KiB" for size in _SIZES)
    return Claim(
        "queues hold at most M B tokens", f"load 3.0: {shown}", verdict(all(within.values()), any(within.values()))
    )


def _mean(runs: Sequence[Row], figure: str, load: float, size: int) -> float:
    return statistics.mean(of(runs, figure, load=load, B=size, timeout=False))


def _latency(runs: Sequence[Row], load: float, size: int) -> str:
    values = of(runs, "mean ms", load=load, B=size, timeout=False)
    ones = of(runs, "mean ms", load=load, B=1, timeout=False)
    return f"{spread(values, 2)}; B = 1: {spread(ones, 2)}"


EXPERIMENT = Experiment("queues", "Expert queues", rows, claims)

"""A long process: a thousand compiles and plans in one, and nothing of it stays.

    warm up ──> bytes of the process, threads, children, open files
    compile and run a step (kernels do nothing), plan one, solve a random graph       ... again and again
      ──> at the end: less than 5% more bytes than stock Inductor's compiles would leave;
                      as many threads, children and open files as before; not more reports than are kept

What PyTorch itself keeps of every compile is measured first, by as many compiles of stock's.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

import memsched
from bench.memory.no_kernels import kernels_that_do_nothing
from memsched.inductor.capture.plan_only import plan_only
from memsched.records.published import MOST_REPORTS
from memsched.search.solver import solve
from tests.oracle import KINDS, random_graph

COUNT = 1_000
_WARM_UP = 0.2
_GROWTH = 0.05


@dataclass(frozen=True)
class Held:
    """What the process holds; bytes, and counts."""

    bytes: int
    threads: int
    children: int
    files: int

    @classmethod
    def now(cls) -> Held:
        """After a full collection."""
        gc.collect()
        process = psutil.Process()
        children = len(process.children(recursive=True))
        return cls(process.memory_info().rss, process.num_threads(), children, process.num_fds())

    @property
    def counts(self) -> tuple[int, int, int]:
        """All but the bytes."""
        return self.threads, self.children, self.files


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, object]:
    """`count` rounds of stock's and `count` of memsched's, each after a fifth of them to warm up."""
    rng = random.Random(seed)
    memsched.reset()

    def planned(index: int) -> None:
        _step("memsched", index)
        if index % 10 == 0:
            plan_only(Model(), (torch.randn(4, 32),))
        solve(random_graph(rng, rng.choice(KINDS), 12))
        progress(index + 1)

    warm_up = max(1, int(count * _WARM_UP))
    with kernels_that_do_nothing():
        stock_before, stock_after = _rounds(count, warm_up, lambda index: _step("inductor", index))
        before, after = _rounds(count, warm_up, planned)
    grown, stock_grown = after.bytes - before.bytes, stock_after.bytes - stock_before.bytes
    reports = len(memsched.reports())
    faults = []
    if grown - max(0, stock_grown) > _GROWTH * before.bytes:
        faults.append(f"{grown} bytes more, stock {stock_grown}")
    if after.counts != before.counts:
        faults.append(f"threads, children, files: {before.counts}, then {after.counts}")
    if reports > MOST_REPORTS:
        faults.append(f"{reports} reports are kept")
    return {
        "instances": count,
        "wrong": len(faults),
        "faults": faults,
        "MiB": before.bytes >> 20,
        "MiB more": grown / 2**20,
        "MiB more of stock": stock_grown / 2**20,
        "threads, children, files": after.counts,
        "reports": reports,
    }


def _rounds(count: int, warm_up: int, one: Callable[[int], None]) -> tuple[Held, Held]:
    """What is held after the first `warm_up` rounds, and after `count`."""
    for index in range(warm_up):
        one(index)
    before = Held.now()
    for index in range(warm_up, count):
        one(index)
    return before, Held.now()


class Model(torch.nn.Module):
    """A small network."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(32, width), torch.nn.GELU(), torch.nn.LayerNorm(width), torch.nn.Linear(width, 32)
        )

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layers(batch).square().mean()


def _step(backend: str, index: int) -> None:
    """Compile a model that is a little different each time, and run a step of it."""
    torch._dynamo.reset()
    torch.compile(Model(32 + index % 16), backend=backend)(torch.randn(4, 32)).backward()

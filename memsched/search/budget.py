"""How long a search may go on, so that two runs stop at the same place.

Work is counted in *units* (a visited state, a tried move), never in seconds: a budget in units ends a search at the
same move on every machine.  A clock of CPU time is only a safety net; a run that it ends says so (`timed_out`).  What
each kind of work costs in units is in `memsched.search.prices`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from memsched.core.result import Options

__all__ = ["CLOCK_SLACK", "UNITS_PER_SECOND", "Budget", "repeatable"]

UNITS_PER_SECOND = 20_000
"""Units of work that a second of the time limit buys.  Low enough that the units run out before the clock does."""

CLOCK_SLACK = 4.0
"""How many times slower than the reference a machine may be before the clock ends a search, and plans may differ."""

_UNITS_BETWEEN_CLOCK_READINGS = 256


def repeatable(options: Options, share: float = 1.0) -> Options:
    """`options` whose time limit buys units of work, that share of them; the clock stops only a far slower machine."""
    limit = options.time_limit_s
    work = int(share * limit * UNITS_PER_SECOND) if options.work_limit is None else options.work_limit
    return replace(options, time_limit_s=CLOCK_SLACK * limit, work_limit=work)


@dataclass(slots=True)
class Budget:
    """Units of work and a deadline that several searches may share.

    units: what may still be spent.
    deadline: `time.thread_time()` after which nothing more may be spent, CPU seconds of the thread that searches, so
        that a busy machine or a stopped process changes no plan; None for no deadline.
    """

    units: int
    deadline: float | None = None
    timed_out: bool = False
    _until_clock: int = field(default=_UNITS_BETWEEN_CLOCK_READINGS, repr=False)

    @classmethod
    def for_seconds(cls, seconds: float, units: int | None = None) -> Budget:
        """The budget that `seconds` buy; `units` overrides the fixed rate."""
        return cls(int(seconds * UNITS_PER_SECOND) if units is None else units, time.thread_time() + seconds)

    def spend(self, units: int = 1) -> bool:
        """Take `units`; False once the budget is exhausted, and from then on."""
        self.units -= units
        self._until_clock -= units
        if self._until_clock <= 0 <= self.units:  # units that have run out end a search at the same place: no clock
            self._until_clock = _UNITS_BETWEEN_CLOCK_READINGS
            self._read_clock()
        return self.units >= 0 and not self.timed_out

    def exhausted_by_now(self) -> bool:
        """Whether nothing may be spent any more; reads the clock, for what costs much before it spends anything."""
        if self.units > 0:
            self._read_clock()
        return self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether nothing may be spent any more."""
        return self.units <= 0 or self.timed_out

    @property
    def seconds_left(self) -> float:
        """CPU seconds that are left: what the units stand for, or up to the deadline, whichever ends first."""
        seconds = max(0, self.units) / UNITS_PER_SECOND
        return seconds if self.deadline is None else max(0.0, min(seconds, self.deadline - time.thread_time()))

    def _read_clock(self) -> None:
        if self.deadline is not None and time.thread_time() > self.deadline:
            self.timed_out = True

    @contextlib.contextmanager
    def share(self, fraction: float) -> Iterator[Budget]:
        """A budget of its own with that share of the units; what it does not spend comes back, also after an error."""
        part = Budget(max(0, int(self.units * fraction)), self.deadline)
        self.units -= part.units
        try:
            yield part
        finally:
            self.units += max(0, part.units)
            self.timed_out = self.timed_out or part.timed_out

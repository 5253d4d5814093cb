"""How long a search may go on, so that two runs stop at the same place.

Work is counted in *units* (a visited state, a tried move), never in seconds: a budget in units ends a search at the
same move on every machine.  The wall clock is only a safety net; a run that it ends says so (`timed_out`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["UNITS_PER_SECOND", "Budget"]

UNITS_PER_SECOND = 20_000
"""Units of work that a second of the time limit buys.  Low enough that the units run out before the clock does."""

_UNITS_BETWEEN_CLOCK_READINGS = 256


@dataclass(slots=True)
class Budget:
    """Units of work and a deadline that several searches may share.

    units: what may still be spent.
    deadline: `time.monotonic()` seconds after which nothing more may be spent; None for no deadline.
    """

    units: int
    deadline: float | None = None
    timed_out: bool = False
    _until_clock: int = field(default=_UNITS_BETWEEN_CLOCK_READINGS, repr=False)

    @classmethod
    def for_seconds(cls, seconds: float, units: int | None = None) -> Budget:
        """The budget that `seconds` buy; `units` overrides the fixed rate."""
        return cls(int(seconds * UNITS_PER_SECOND) if units is None else units, time.monotonic() + seconds)

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

    def _read_clock(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.timed_out = True

    def part(self, fraction: float) -> Budget:
        """A budget of its own with that share of the units; the caller gives back what it leaves with `give_back`."""
        share = Budget(max(0, int(self.units * fraction)), self.deadline)
        self.units -= share.units
        return share

    def give_back(self, part: Budget) -> None:
        """Return what `part` did not spend."""
        self.units += max(0, part.units)
        self.timed_out = self.timed_out or part.timed_out

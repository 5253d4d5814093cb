"""What there is to show of one compiled graph: orders, what is proved, what was refused, what was measured.

timelines[0]     stock's order, perhaps of stock's own fusions     ▂▄▇█▅▂
timelines[-1]    the order that was chosen                         ▂▄▅▅▄▂
measured         the allocator's bytes while it ran                ▂▄▅▆▄▁
lower_bound      no order of the chosen graph needs less           ------
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memsched.core.origin import RefusedFusion
from memsched.core.result import Certificate
from memsched.report.timeline import Timeline

__all__ = ["Exhibit", "MeasuredCurve"]


@dataclass(frozen=True, slots=True)
class MeasuredCurve:
    """Bytes that the allocator held while the chosen order ran.

    places: where on the axis of steps each sample belongs, ascending; 3.5 is the middle of step 3.
    levels: bytes, one for each place, counted so that the curve begins at the level of the plan.
    source: how it was measured and placed, for people.
    """

    places: tuple[float, ...]
    levels: tuple[int, ...]
    source: str = ""

    @property
    def peak(self) -> int:
        """The most that was measured; bytes."""
        return max(self.levels, default=0)


@dataclass(frozen=True)
class Exhibit:
    """One compiled graph: its orders, the chosen one last; they may be of different fusions of the same computation.

    lower_bound in bytes, None when nothing is known; proved: whether the certificate could be followed by
    `memsched.core.check`.  Both are about the last order.
    """

    timelines: Sequence[Timeline]
    lower_bound: int | None = None
    certificate: Certificate | None = None
    proved: bool = False
    refusals: Sequence[RefusedFusion] = ()
    measured: MeasuredCurve | None = None

"""What there is to show of one compiled graph: orders, what is proved, what was refused, what was measured.

timelines[0]     stock's order, perhaps of stock's own fusions     ▂▄▇█▅▂
timelines[-1]    the order that was chosen                         ▂▄▅▅▄▂
measured         the allocator's bytes while it ran                ▂▄▅▆▄▁
lower_bound      no order of the chosen graph needs less           ------
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memsched.core.result import Certificate
from memsched.records.fusion import RefusedFusion
from memsched.records.step import MeasuredCurve
from memsched.render.timeline import Timeline

__all__ = ["Exhibit"]


@dataclass(frozen=True)
class Exhibit:
    """One compiled graph: its orders, the chosen one last; they may be of different fusions of the same computation.

    lower_bound in bytes, None when nothing is known; proved: whether the certificate could be followed by
    `memsched.check.certificate`.  Both are about the last order.
    """

    timelines: Sequence[Timeline]
    lower_bound: int | None = None
    certificate: Certificate | None = None
    proved: bool = False
    refusals: Sequence[RefusedFusion] = ()
    measured: MeasuredCurve | None = None

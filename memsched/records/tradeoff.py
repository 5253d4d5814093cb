"""Points of a trade of peak memory against kernels, and which of them are not beaten in both.

peak  ●                      ● nothing needs less memory with as few kernels: on the *frontier*
      │   ○                  ○ beaten: the point to its lower left has less of both
      │ ●
      │        ●
      └──────────── kernels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TradePoint", "frontier"]


@dataclass(frozen=True, slots=True)
class TradePoint:
    """One plan of a step: bytes of the graph that needs most, kernels of all its graphs, seconds of a measured step."""

    label: str
    peak: int
    kernels: int
    refused: int = 0
    lower_bound: int = 0
    seconds: float | None = None


def frontier(points: Sequence[TradePoint]) -> list[TradePoint]:
    """The points that no other one beats in peak and kernels, by increasing kernels; of equals the first."""
    best: list[TradePoint] = []
    for point in sorted(points, key=lambda point: (point.kernels, point.peak)):
        if not best or point.peak < best[-1].peak:
            best.append(point)
    return best

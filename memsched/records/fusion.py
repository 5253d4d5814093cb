"""Fusions that were made or refused, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MadeFusion", "RefusedFusion"]


@dataclass(frozen=True, slots=True)
class RefusedFusion:
    """Two kernels, by the names of their ops before fusion, that were kept apart; `price` bytes above the budget.

    traffic: bytes that the fusion would have saved moving (`memsched.fusion.score`).
    vertical: whether one kernel reads what the other writes; otherwise they would have run side by side.
    """

    ops: tuple[str, ...]
    other: tuple[str, ...]
    price: int
    traffic: int = 0
    vertical: bool = False


@dataclass(frozen=True, slots=True)
class MadeFusion:
    """Two kernels, by the names of their ops before fusion, that were fused.

    traffic: bytes that need no longer be moved; peak_change: bytes by which the peak of the planned order changed.
    """

    ops: tuple[str, ...]
    other: tuple[str, ...]
    traffic: int
    peak_change: int

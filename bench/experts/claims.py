"""What an experiment decides: a claim of a paper or of ours, the figure that was seen, and whether it holds.

    Claim("pMoE needs half the samples", "0.20 +- 0.00 of a CNN's", Verdict.HOLDS)

A verdict is computed from the rows, never typed.  Figures are means over seeds; "+-" is their standard deviation.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Claim", "Experiment", "Row", "Verdict", "claims_table", "of", "spread", "verdict"]

Row = dict[str, Any]
"""One result of one seed, as a JSON object."""


class Verdict(enum.StrEnum):
    """Whether a claim holds, by what the rows say."""

    HOLDS = "holds"
    IN_PART = "holds in part"
    DOES_NOT = "does not"


@dataclass(frozen=True, slots=True)
class Claim:
    """text: what is claimed, by whom; figure: what was seen; verdict: what follows."""

    text: str
    figure: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Experiment:
    """One of the five systems.

    rows(seeds, quick): runs it; every row has "seed" where it belongs to one.  claims(rows): what they decide.
    """

    name: str
    title: str
    rows: Callable[[int, bool], list[Row]]
    claims: Callable[[Sequence[Row]], list[Claim]]


def verdict(whole: bool, part: bool = False) -> Verdict:
    """HOLDS when `whole`, else IN_PART when `part`."""
    return Verdict.HOLDS if whole else Verdict.IN_PART if part else Verdict.DOES_NOT


def of(rows: Iterable[Row], figure: str, /, **where: Any) -> list[Any]:
    """`figure` of the rows that have these values, in the order of their seeds.

    Raises KeyError when there is none: a claim about nothing is a fault of ours.
    """
    chosen = [row for row in rows if all(row.get(key) == value for key, value in where.items())]
    if not chosen:
        raise KeyError(f"no row has {where}")
    return [row[figure] for row in sorted(chosen, key=lambda row: row.get("seed", 0))]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation over seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def claims_table(claims: Sequence[Claim]) -> str:
    """The claims as Markdown."""
    lines = [f"| {claim.text} | {claim.figure} | **{claim.verdict}** |" for claim in claims]
    return "\n".join(["| claim | seen | verdict |", "|---|---|---|", *lines])

"""What the ILP and the CP-SAT model have in common: the grid of steps, sizes in small integers, limits and answers.

A schedule of n ops is an assignment of the ops to the steps 0 .. n-1.  An op with `a` ancestors and `d` descendants can
only run in the *window* of the steps a .. n-1-d ("as soon as possible" and "as late as possible").

           ┌─> b ─┐          window    a 0..0    b 1..2    c 1..2    d 3..3
        a ─┤      ├─> d
           └─> c ─┘

Solvers compute with rounding errors (HiGHS, CBC) or in 64-bit integers (CP-SAT), so sizes are divided by their
greatest common divisor first.  When the sum is still above what a solver adds exactly, sizes are rounded *down* to
multiples of a larger unit: the model then underestimates every order, so that its bound, times the unit, still holds
for the graph, while the order that it finds is judged by `memsched.core.peak` like every other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from memsched.core.graph import Graph

__all__ = ["ModelAnswer", "ModelError", "ModelLimits", "ModelTooLarge", "Sequencing", "sequencing"]


class ModelError(RuntimeError):
    """A solver that is missing, that failed, or that answered with something unknown."""


class ModelTooLarge(ModelError):
    """The model would have more variables than the limits allow."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What one model may spend.

    seconds: CPU time of the child; a safety net, after which it is killed.  The solver in it stops by itself after as
        many seconds of the clock.
    work: the solver's own repeatable measure: CP-SAT's deterministic time (about seconds), branch-and-bound nodes of
        HiGHS and CBC in thousands.
    seed: of the solver.
    variables: refuse to build a model with more variables than this.
    """

    seconds: float
    work: float = math.inf
    seed: int = 0
    variables: int = 200_000


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a solver found and proved.

    order: the best order, or None.
    lower_bound: bytes that every order needs; 0 when nothing was proved.
    finished: whether the solver came to its end; if not, a limit stopped it.
    repeatable: whether it stopped at the same place as on every other machine (False: its time was over, or it died).
    failure: how it died, when it had reported something before; what it had reported is here.
    """

    order: tuple[int, ...] | None
    lower_bound: int
    finished: bool
    repeatable: bool = True
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Sequencing:
    """The problem on the grid of steps, with sizes in units.

    earliest, latest: the window of each op, both inclusive.
    unit: bytes; sizes and workspaces are in units, rounded down when `exact` is False.
    """

    graph: Graph
    earliest: tuple[int, ...]
    latest: tuple[int, ...]
    sizes: tuple[int, ...]
    workspaces: tuple[int, ...]
    unit: int
    exact: bool

    def units_of_floor(self, lower_bound: int) -> int:
        """A bound in bytes as one that the model may use to stop: rounded down."""
        return lower_bound // self.unit

    def units_of_peak(self, peak: int) -> int:
        """A number of units that the model's peak of an order of `peak` bytes does not exceed."""
        return peak // self.unit

    def bytes_of_bound(self, units: float, floor: int) -> int:
        """The bound in bytes that the solver's `units` prove; `floor` is what was known before, in bytes.

        The peak is a whole number of units, so a fraction is rounded up, less what the arithmetic may have lost.
        The model has the floor as a constraint, so only what is above it is news.
        """
        whole = math.ceil(units - 0.01)
        return max(floor, whole * self.unit) if whole > self.units_of_floor(floor) else floor


def sequencing(graph: Graph, largest_total: int) -> Sequencing:
    """The problem on the grid of steps, in units of which all sizes together are at most `largest_total`."""
    sizes = [buffer.size for buffer in graph.buffers]
    workspaces = [op.workspace for op in graph.ops]
    divisor = math.gcd(*sizes, *workspaces) or 1
    total = sum(sizes) + sum(workspaces)
    unit = divisor * max(1, -(-total // (divisor * largest_total)))
    earliest, latest = _windows(graph)
    return Sequencing(
        graph=graph,
        earliest=earliest,
        latest=latest,
        sizes=tuple(size // unit for size in sizes),
        workspaces=tuple(workspace // unit for workspace in workspaces),
        unit=unit,
        exact=unit == divisor,
    )


def _windows(graph: Graph) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Earliest and latest step of each op: the number of its ancestors, and n-1 less that of its descendants."""
    last = len(graph) - 1
    earliest = tuple(mask.bit_count() for mask in graph.ancestors)
    return earliest, tuple(last - mask.bit_count() for mask in graph.descendants)

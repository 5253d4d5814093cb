"""What a solver is asked, and what it may answer.

A result never claims more than it proved: `Status.OPTIMAL` only when the peak meets a proved lower bound.

    peak         what the order needs, by `memsched.core.peak`
    lower_bound  what *every* order needs, proved
    gap          peak / lower_bound - 1
    certificate  why the lower bound holds, in a form that `memsched.check.certificate` can follow, or a statement that
                 names the method that must be believed
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = [
    "Certificate",
    "CutCertificate",
    "EndpointCertificate",
    "FlowArc",
    "ForcedPrecedence",
    "ForcingCertificate",
    "Options",
    "Schedule",
    "StatementCertificate",
    "Status",
    "TreeCertificate",
    "status_of",
]


class Status(enum.StrEnum):
    """How much is known about an order: proved best, bounded from below, or nothing but its peak.

    STOCK is for graphs that were left to stock Inductor: there is no order of ours.
    """

    OPTIMAL = "optimal"
    BOUNDED = "bounded"
    HEURISTIC = "heuristic"
    STOCK = "stock"


@dataclass(frozen=True, slots=True)
class Options:
    """What a solve may spend.  Work limits make results repeatable; the wall limit is a safety net.

    time_limit_s: seconds after which the best order so far is returned.
    work_limit: states that exact search may visit, and moves that local search may try; None derives it from the
        time limit by a fixed rate, so that the result does not depend on the speed of the machine.
    seed: of the moves of local search.
    use_ilp: whether an ILP or CP-SAT may be asked about what search leaves open.
    method: "auto", or one of the names of `memsched.search.solver.METHODS`.
    strict: whether a stage that fails raises instead of leaving a note.
    answer_interrupted: whether Ctrl-C ends the search with the best that it has; otherwise it goes on to the caller.
    """

    time_limit_s: float = 5.0
    work_limit: int | None = None
    seed: int = 0
    use_ilp: bool = True
    method: str = "auto"
    strict: bool = False
    answer_interrupted: bool = False


@dataclass(frozen=True, slots=True)
class EndpointCertificate:
    """Every order starts with all inputs live and ends with all kept buffers live: `bound` is the larger of the two."""

    bound: int


FlowArc = tuple[int, int, int]
"""(buffer, op, bytes) or (op, predecessor, bytes); see `CutCertificate`."""


@dataclass(frozen=True, slots=True)
class CutCertificate:
    """No order can run `op` below `bound` bytes: a minimum cut, with the maximum flow that proves it.

    When `op` starts, the ops that have run form a down-set that holds all its ancestors and none of its descendants.
    `down_set` is one with the fewest live bytes; `bound` is those bytes plus the outputs and the workspace of `op`.
    The flow shows that no other down-set has fewer: `reader_flow` (buffer, op, bytes) charges what freeing a buffer
    would save to the ops that must read it first, `precedence_flow` (op, predecessor, bytes) hands charges to ops
    that must run before, and no op is charged more than it allocates (max-flow min-cut; Picard 1976 for closures).
    """

    bound: int
    op: int
    down_set: tuple[int, ...]
    reader_flow: tuple[FlowArc, ...]
    precedence_flow: tuple[FlowArc, ...]


@dataclass(frozen=True, slots=True)
class ForcedPrecedence:
    """What an order below a bound cannot do: start `op` after `other` (`other_first`), or before it.

    The flows prove, as in `CutCertificate` and with all precedences forced so far, that `op` would need the bound.
    So `op` runs before `other` (`other_first`), or after it.  With no `other`, `op` cannot run at all.
    """

    op: int
    other: int | None
    other_first: bool
    reader_flow: tuple[FlowArc, ...]
    precedence_flow: tuple[FlowArc, ...]


@dataclass(frozen=True, slots=True)
class ForcingCertificate:
    """No order stays below `bound`: it would have to respect one precedence after the other, until an op cannot run.

    The last step has no `other`; the checker is `memsched.check.cut.check_forcing`.
    """

    bound: int
    steps: tuple[ForcedPrecedence, ...]


@dataclass(frozen=True, slots=True)
class TreeCertificate:
    """The precedence graph is series-parallel, `tree` decomposes it, and its segments are optimal for it.

    `tree` is nested: an op index, or ["S", ...] in series, or ["P", ...] in parallel; a tree too deep to nest is one
    flat list, ["postfix", 3, 5, "P2", ...].  `freed_by` names for each buffer that has several maximal consumers the
    one that is taken to free it (buffer, op), or several that free it in equal shares; with it the problem is the
    modular one whose optimum, `bound`, the tree yields (Kayaaslan, Lambert, Marchal, Ucar 2018).
    """

    bound: int
    tree: object
    freed_by: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class StatementCertificate:
    """`bound` was proved by `method`, which leaves nothing that can be checked without running it again."""

    bound: int
    method: str
    statement: str


Certificate = EndpointCertificate | CutCertificate | ForcingCertificate | TreeCertificate | StatementCertificate


@dataclass(frozen=True, slots=True)
class Schedule:
    """An order and what is known about it; bytes and seconds."""

    order: tuple[int, ...]
    peak: int
    lower_bound: int
    status: Status
    method: str
    seconds: float
    certificate: Certificate | None = None
    note: str = ""
    interrupted: bool = False

    def __post_init__(self) -> None:
        assert self.lower_bound <= self.peak, f"bound {self.lower_bound} above the peak {self.peak} of a real order"
        assert self.status is not Status.OPTIMAL or self.peak == self.lower_bound, "OPTIMAL without a matching bound"

    @property
    def gap(self) -> float:
        """peak / lower_bound - 1: by how much the peak might still fall; infinite without a bound."""
        if self.lower_bound == self.peak:
            return 0.0
        return self.peak / self.lower_bound - 1 if self.lower_bound else float("inf")


def status_of(peak: int, lower_bound: int | None) -> Status:
    """The strongest status that a peak and a proved lower bound (None: nothing proved) allow."""
    if lower_bound is None:
        return Status.HEURISTIC
    return Status.OPTIMAL if peak == lower_bound else Status.BOUNDED

"""Refute a level: which precedences would an order with a peak of at most `level` have to respect?

Let every order be compared with one level.  When node v runs, what has run is a down-set with all of v's ancestors and
none of its descendants, and `memory` of it plus v's hump must stay within the level.  For another node u that is
incomparable to v ask two minimum cuts:

    the least such down-set *with u*     does not fit   ->  u cannot run before v   ->  add v -> u
    the least such down-set *without u*  does not fit   ->  u must run before v     ->  add u -> v

The added precedences make ancestors and descendants larger, so later cuts are higher and add more, until nothing
changes or some node does not fit at all.  In the latter case no order has a peak of at most `level`, and the bound
rises above it.

    level 10   u frees 4 bytes that v needs:   v with u   6 + hump(v) = 9     fits
                                               v without  10 + hump(v) = 13   does not: u -> v

One cut is a bound on one op; probing lets the cuts of different ops talk to each other, as edge finding and shaving do
in job-shop scheduling (Carlier, Pinson 1989; Martin, Shmoys 1996).  Precedences that hold for a level hold for every
lower one, so bisection starts each level from what the last level above it has left.

Few cuts are needed: the down-set of each cut that fits shows for *all* its members that they may come before v, and for
all others that they may come after.  What is left is asked in groups: if the least down-set with the whole group fits,
each member does.
"""

from __future__ import annotations

from collections.abc import Sequence

from memsched.search.budget import Budget
from memsched.search.problem import Problem, bits, mask_of

__all__ = ["OutOfBudgetError", "probe_bound", "probe_level"]

_ARCS_PER_UNIT = 150
"""Arcs of the network that one flow may visit for one unit of work (about 50 microseconds)."""

_LEVELS_APART = 10_000
"""Bisection stops when the bound is known to one part in this many."""


class OutOfBudgetError(Exception):
    """The budget ended; what was asked stays open."""


def probe_bound(problem: Problem, *, lower_bound: int, upper_bound: int, budget: Budget) -> int:
    """The highest bound that refuting levels from `lower_bound` up to below `upper_bound` proves; bytes.

    The result is a valid lower bound whenever the budget ends.  `upper_bound` itself is returned when no order lies
    below it.
    """
    level = upper_bound - 1
    lower_bound = problem.round_up(lower_bound)
    try:
        while lower_bound < upper_bound:
            stronger = probe_level(problem, level, budget)
            if stronger is None:
                lower_bound = min(upper_bound, problem.round_up(level + 1))
            else:
                problem, upper_bound = stronger, level
            level = (lower_bound + upper_bound - 1) // 2
            if upper_bound - lower_bound <= upper_bound // _LEVELS_APART:
                break
    except OutOfBudgetError:
        pass
    return lower_bound


def probe_level(problem: Problem, level: int, budget: Budget) -> Problem | None:
    """The problem with every precedence found that an order of peak `level` or less respects; None: no such order.

    Raises OutOfBudgetError.
    """
    if max(problem.base, problem.end) > level:
        return None
    probe = _Probe(problem, level, budget)
    while (found := probe.round()) != 0:
        if found is None:
            return None
    return problem.with_precedences(probe.before)


class _Probe:
    """The precedences known at one level, transitively closed, and the network that they shape."""

    def __init__(self, problem: Problem, level: int, budget: Budget) -> None:
        self.problem, self.level, self.budget = problem, level, budget
        self.before, self.after = list(problem.ancestors), list(problem.descendants)
        self.direct = [list(bits(mask)) for mask in problem.predecessors]
        self.network = problem.closure_network()

    def round(self) -> int | None:
        """Probe every node once, those with the highest cuts first; the precedences added, None when refuted."""
        nodes = [node for node in range(len(self.problem)) if self.problem.humps[node]]
        cuts = [self._least(node)[0] for node in nodes]
        if max(cuts, default=0) > self.level:
            return None
        added = 0
        for _, node in sorted(zip((-cut for cut in cuts), nodes, strict=True)):
            found = self._probe(node)
            if found is None:
                return None
            added += found
        return added

    def _probe(self, node: int) -> int | None:
        """Decide for every node whether it may come before and after `node`; the precedences added, None: refuted."""
        step, done = self._least(node)
        if step > self.level:
            return None
        others = self.problem.full & ~(1 << node)
        may_precede, may_follow = done, others & ~done
        added = 0
        for ask_before in (True, False):
            open_nodes = others & ~(may_precede if ask_before else may_follow)
            groups = [list(bits(open_nodes))]
            while groups:
                decided = self.before[node] | self.after[node] | (may_precede if ask_before else may_follow)
                group = [other for other in groups.pop() if not decided >> other & 1]
                if not group:
                    continue
                step, done = self._least(node, group, ()) if ask_before else self._least(node, (), group)
                if step <= self.level:
                    may_precede |= done
                    may_follow |= others & ~done
                elif len(group) > 1:
                    half = len(group) // 2
                    groups += [group[half:], group[:half]]
                else:
                    self._add(node, group[0]) if ask_before else self._add(group[0], node)
                    added += 1
        return added

    def _least(self, node: int, inside: Sequence[int] = (), outside: Sequence[int] = ()) -> tuple[int, int]:
        """(step peak, down-set) of running `node` as low as it can, with some nodes before it and others not."""
        if not self.budget.spend(1 + self.network.num_arcs // _ARCS_PER_UNIT):
            raise OutOfBudgetError
        weight, closure = self.network.least([*self.direct[node], *inside], [node, *outside])
        done = mask_of(member for member in closure if member < len(self.problem))
        return self.problem.base + weight + self.problem.humps[node], done

    def _add(self, first: int, second: int) -> None:
        """`first` runs before `second`, and so does everything before it before everything after."""
        earlier, later = self.before[first] | 1 << first, self.after[second] | 1 << second
        for node in bits(later):
            self.before[node] |= earlier
        for node in bits(earlier):
            self.after[node] |= later
        self.direct[second].append(first)
        self.network.require(second, first)

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

Few cuts are needed.  The down-set of a cut that fits shows for *all* its members that they may come before v, and for
all others that they may come after; and most of the others, moved over the cut one at a time with what must move with
them, still fit.  What is left is asked in groups: if the least down-set with the whole group fits, each member does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.exact.problem import Problem, bits, mask_of_many

__all__ = ["Forced", "Probed", "hottest_nodes", "probe_bound", "probe_level"]


_NUM_HOT_NODES = 48
"""Nodes that are probed.  Of two captured backward graphs of 800 and 900 ops the 6 and the 25 hottest were enough."""

_FEW_NODES = 24
"""Nodes that are moved over a cut together to see whether it still fits, before a flow is asked."""

_SHARE_OF_A_LEVEL = 0.25
"""Share of what is left of the budget that one level of a bisection may take."""

_LEVELS_APART = 10_000
"""Bisection stops when the bound is known to one part in this many."""


class OutOfBudgetError(Exception):
    """The budget ended; what was asked stays open."""


def probe_bound(problem: Problem, *, lower_bound: int, upper_bound: int, budget: Budget) -> int:
    """The highest bound that refuting levels from `lower_bound` up to below `upper_bound` proves; bytes.

    The result is a valid lower bound whenever the budget ends.  `upper_bound` itself is returned when no order lies
    below it.  The level just below it is tried first; a level that takes too much of the budget counts as open.
    """
    level = upper_bound - 1
    lower_bound = problem.round_up(lower_bound)
    nodes = hottest_nodes(problem, budget)
    while lower_bound < upper_bound and not budget.exhausted:
        with budget.share(_SHARE_OF_A_LEVEL) as part:
            probed = probe_level(problem, level, part, nodes)
        if probed.problem is None:
            lower_bound = min(upper_bound, problem.round_up(level + 1))
        else:
            problem, upper_bound = probed.problem, level
        level = (lower_bound + upper_bound - 1) // 2
        if upper_bound - lower_bound <= upper_bound // _LEVELS_APART:
            break
    return lower_bound


def hottest_nodes(problem: Problem, budget: Budget) -> list[int]:
    """The nodes with the highest cuts, highest first: only they are near a level.  Fewer when the budget ends.

    No cut is above the step of its node in any order, so nodes are cut by decreasing step, and each cut reroutes the
    order (as in `memsched.search.cuts.bounds`) until no step is above the cuts that have been found.
    """
    probe = _Probe(problem, 0, budget)
    order = list(problem.topological_order)
    steps = zip(order, problem.step_peaks(order), strict=True)
    estimates = {node: step for node, step in steps if problem.humps[node]}
    cuts: list[tuple[int, int]] = []
    try:
        while estimates:
            node = min(estimates, key=lambda other: (-estimates[other], other))
            if len(cuts) >= _NUM_HOT_NODES and estimates[node] < -sorted(cuts)[_NUM_HOT_NODES - 1][0]:
                break
            del estimates[node]
            cut, done = probe.least(node)
            cuts.append((-cut, node))
            order = [
                *(other for other in order if done >> other & 1),
                node,
                *(other for other in order if not done >> other & 1 and other != node),
            ]
            for other, step in zip(order, problem.step_peaks(order), strict=True):
                if other in estimates and step < estimates[other]:
                    estimates[other] = step
            if not budget.spend(1 + len(order) // prices.PROBED_STEPS):
                break
    except OutOfBudgetError:
        pass
    return [node for _, node in sorted(cuts)[:_NUM_HOT_NODES]]


@dataclass(frozen=True, slots=True)
class Forced:
    """A cut above the level: `node` cannot run after `other` (`other_first`), or before it; at all (no `other`)."""

    node: int
    other: int | None = None
    other_first: bool = False


@dataclass(frozen=True, slots=True)
class Probed:
    """What is known of the orders of at most some level.

    problem: the problem with precedences that they all respect; None when there is no such order.
    forced: the cuts that forced the precedences, in order; when `problem` is None the last one has no `other`, or
        there is none at all because the ends of every order are above the level.
    """

    problem: Problem | None
    forced: tuple[Forced, ...]


def probe_level(problem: Problem, level: int, budget: Budget, nodes: Sequence[int]) -> Probed:
    """The precedences that an order of peak `level` or less respects, or that there is no such order.

    `nodes` are probed, in their order, again while that keeps adding precedences or until the budget ends; what has
    been added by then holds.
    """
    if max(problem.base, problem.end) > level:
        return Probed(None, ())
    probe = _Probe(problem, level, budget)
    try:
        added = len(nodes)
        while added >= len(nodes) and nodes:
            added = len(probe.forced)
            for node in nodes:
                if not probe.run(node):
                    return Probed(None, tuple(probe.forced))
            added = len(probe.forced) - added
    except OutOfBudgetError:
        pass
    return Probed(problem.with_precedences(probe.before), tuple(probe.forced))


class _Probe:
    """The precedences known at one level, transitively closed, and the network that they shape."""

    def __init__(self, problem: Problem, level: int, budget: Budget) -> None:
        self.problem, self.level, self.budget = problem, level, budget
        self.before, self.after = list(problem.ancestors), list(problem.descendants)
        self.direct = [list(bits(mask)) for mask in problem.predecessors]
        self.network = problem.closure_network()
        self.order = problem.topological_order
        self.forced: list[Forced] = []

    def run(self, node: int) -> bool:
        """Decide for every node whether it may come before and after `node`; False when `node` cannot run at all."""
        step, done = self.least(node)
        if step > self.level:
            self.forced.append(Forced(node))
            return False
        if not self.budget.spend(1 + len(self.problem) // prices.PROBED_NODES):
            raise OutOfBudgetError
        others = self.problem.full & ~(1 << node)
        may_precede = self._grown(node, done, step) | self._each_added(node, done, step)
        may_follow = others & ~(self._shrunk(node, done, step) & self._each_removed(node, done, step))
        for ask_before in (True, False):
            open_nodes = others & ~(may_precede if ask_before else may_follow)
            line = self.order if ask_before else reversed(self.order)
            groups = [[other for other in line if open_nodes >> other & 1]]
            while groups:
                decided = self.before[node] | self.after[node] | (may_precede if ask_before else may_follow)
                group = [other for other in groups.pop() if not decided >> other & 1]
                if not group:
                    continue
                step, done = self.least(node, group, ()) if ask_before else self.least(node, (), group)
                if step <= self.level:
                    may_precede |= self._grown(node, done, step) if ask_before else done
                    may_follow |= others & ~(done if ask_before else self._shrunk(node, done, step))
                elif len(group) > 1:
                    half = len(group) // 2
                    groups += [group[half:], group[:half]]
                else:
                    self.forced.append(Forced(node, group[0], ask_before))
                    self._add(node, group[0]) if ask_before else self._add(group[0], node)
        return True

    def _grown(self, node: int, done: int, step: int) -> int:
        """`done` with as long a stretch of a topological order as `node` can run after within the level."""
        largest = done
        open_nodes = self.problem.full & ~(done | self.after[node] | 1 << node)
        for other in self.order:
            if open_nodes >> other & 1 and not self.before[other] & ~done:
                step += self.problem.step(done, 0, other)[1]
                done |= 1 << other
                if step <= self.level:
                    largest = done
        return largest

    def _shrunk(self, node: int, done: int, step: int) -> int:
        """`done` without as long an end of a topological order as `node` can run without within the level."""
        smallest = done
        loose_nodes = done & ~self.before[node]
        for other in reversed(self.order):
            if loose_nodes >> other & 1 and not self.after[other] & done:
                done ^= 1 << other
                step -= self.problem.step(done, 0, other)[1]
                if step <= self.level:
                    smallest = done
        return smallest

    def _each_added(self, node: int, done: int, step: int) -> int:
        """`done` and every node that, alone with its ancestors, can be added to it within the level."""
        may_precede = done
        for other in bits(self.problem.full & ~(done | self.after[node] | 1 << node)):
            missing = (self.before[other] | 1 << other) & ~done
            if may_precede >> other & 1 or missing.bit_count() > _FEW_NODES:
                continue
            grown, change = done, 0
            for more in bits(missing):
                change += self.problem.step(grown, 0, more)[1]
                grown |= 1 << more
            if step + change <= self.level:
                may_precede |= grown
        return may_precede

    def _each_removed(self, node: int, done: int, step: int) -> int:
        """`done` without any node that, alone with its descendants, can be removed from it within the level."""
        must_precede = done
        for other in bits(done & ~self.before[node]):
            loose = (self.after[other] | 1 << other) & done
            if not must_precede >> other & 1 or loose.bit_count() > _FEW_NODES:
                continue
            shrunk, change = done, 0
            for less in bits(loose):
                shrunk ^= 1 << less
                change -= self.problem.step(shrunk, 0, less)[1]
            if step + change <= self.level:
                must_precede &= shrunk
        return must_precede

    def least(self, node: int, inside: Sequence[int] = (), outside: Sequence[int] = ()) -> tuple[int, int]:
        """(step peak, down-set) of running `node` as low as it can, with some nodes before it and others not."""
        if not self.budget.spend(1 + self.network.num_arcs // prices.PROBED_ARCS):
            raise OutOfBudgetError
        weight, closure = self.network.least([*self.direct[node], *inside], [node, *outside])
        done = mask_of_many(closure, len(self.problem))
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

"""The ordering problem as a 0/1 program in PuLP, for HiGHS or CBC.

For each op v and step t of its window, done[v, t] = 1 says that v has run before step t; v runs at step t when
create[v, t] = done[v, t+1] - done[v, t] is 1.  For each buffer b and step t, preserve[b, t] = 1 says that b was created
before step t and is still resident.  These are the *create* and *preserve* variables of MODeL (Steiner, Elhoushi, Kahn,
Hegarty, ICML 2023; order only, no addresses), with one create for all outputs of an op.

    (1) _add_done       done[v, t] <= done[v, t+1]; 0 up to the first step of v's window, 1 after its last
    (2) _add_steps      sum over v of done[v, t] = t                                        one op per step
    (3) _add_order      done[w, t+1] <= done[v, t]                                          v runs before w
    (4) _add_lifetimes  preserve[b, t] >= done[p, t] - done[c, t]                           p writes b, c reads b
                        preserve[b, t] >= done[p, t]                                        b is kept
    (5) _add_peak       peak >= sum of size[b] * (preserve[b, t] + create[p(b), t])
                                + sum of workspace[v] * create[v, t]                        for every step t
    (6) _add_peak       floor <= peak <= peak of the incumbent; minimise peak

MODeL has, in the place of (3) and (4), for every step

    (7) _add_modeled_lifetimes   preserve[b, t] <= preserve[b, t-1] + create[p, t-1]        only what was there
                                 create[c, t] <= preserve[b, t]                             an op reads what is there

which says the same of 0/1 values; (3) and (4) exclude more fractional ones.  `as_published` uses (7), without floor and
incumbent: the reference method "model-ilp".  It keeps (2) and the windows, which MODeL has as spans.

preserve and peak need not be integer variables: they are as small as (4) allows.  Since peak is a sum of whole sizes,
it is declared integer all the same: bounds round up.  There are O(ops * (ops + buffers)) variables, so this is for the
few dozen ops that search leaves open.  HiGHS and CBC compute in floating point; `memsched.search.models.model` explains
the unit in which sizes are small enough for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memsched.core.peak import peak_bytes
from memsched.search.models.model import Sequencing

__all__ = ["TOLERANCE", "Formulation"]

TOLERANCE = 1e-9
"""By how much a constraint or a 0/1 value may be off."""


class Formulation:
    """The variables and constraints of the module docstring."""

    def __init__(
        self, pulp: Any, problem: Sequencing, incumbent: Sequence[int] | None, floor: int, as_published: bool
    ) -> None:
        self.pulp, self.problem, self.incumbent, self.floor = pulp, problem, incumbent, floor
        self.graph = problem.graph
        self.num_steps = len(problem.graph.ops)
        self.model: Any = pulp.LpProblem("memsched", pulp.LpMinimize)
        self.done: list[list[Any]] = []
        self.preserve: list[list[Any]] = []
        self._add_done()
        self._add_steps()
        self._add_preserve()
        if as_published:
            self._add_order(self.graph.order_edges)
            self._add_modeled_lifetimes()
        else:
            edges = [(before, op) for op, all_before in enumerate(self.graph.predecessors) for before in all_before]
            self._add_order(edges)
            self._add_lifetimes()
        self.peak = self._add_peak()

    def order(self, values: Sequence[Sequence[float]]) -> tuple[int, ...]:
        """The order that the values of `done` stand for: ops by the number of steps before which they are not done."""
        not_done = [sum(1 for value in row if value < 0.5) for row in values]
        return tuple(sorted(range(self.num_steps), key=not_done.__getitem__))

    def create(self, op: int, step: int) -> Any:
        """Whether `op` runs at `step`."""
        return self.done[op][step + 1] - self.done[op][step]

    def value_in_incumbent(self) -> dict[str, float]:
        """The value of every variable, by its name, when the incumbent runs."""
        assert self.incumbent is not None
        step_of = {op: step for step, op in enumerate(self.incumbent)}
        values: dict[str, float] = {}
        for op, row in enumerate(self.done):
            values |= {var.name: float(step_of[op] < t) for t, var in enumerate(row) if not isinstance(var, int)}
        for index, row in enumerate(self.preserve):
            buffer = self.graph.buffers[index]
            born = -1 if buffer.producer is None else step_of[buffer.producer]
            last = max((step_of[op] for op in buffer.consumers), default=born)
            last = self.num_steps if buffer.kept else last
            values |= {var.name: float(born < t <= last) for t, var in enumerate(row) if not isinstance(var, int)}
        values[self.peak.name] = float(self.problem.units_of_peak(peak_bytes(self.graph, self.incumbent)))
        return values

    def _add_done(self) -> None:
        """(1); done[v][t] for t = 0 .. num_steps."""
        for op in range(self.num_steps):
            first, last = self.problem.earliest[op], self.problem.latest[op]
            row: list[Any] = [0] * (first + 1)
            row += [self.pulp.LpVariable(f"done_{op}_{t}", cat="Binary") for t in range(first + 1, last + 1)]
            row += [1] * (self.num_steps - last)
            self.done.append(row)
            for t in range(first + 1, last):
                self.model += row[t] <= row[t + 1]

    def _add_steps(self) -> None:
        """(2)"""
        for t in range(1, self.num_steps):
            self._require(self.pulp.lpSum(row[t] for row in self.done) == t)

    def _add_order(self, edges: Sequence[tuple[int, int]]) -> None:
        """(3)"""
        for before, after in edges:
            for t in range(self.num_steps):
                self._require(self.done[after][t + 1] <= self.done[before][t])

    def _add_preserve(self) -> None:
        """preserve[b][t] for t = 0 .. num_steps-1; a constant where the windows leave no choice."""
        for index, buffer in enumerate(self.graph.buffers):
            born = -1 if buffer.producer is None else self.problem.earliest[buffer.producer]
            dead = max((self.problem.latest[op] for op in buffer.consumers), default=born)
            dead = self.num_steps if buffer.kept else dead
            is_free = [born < t <= dead and self.problem.sizes[index] > 0 for t in range(self.num_steps)]
            self.preserve.append(
                [self.pulp.LpVariable(f"preserve_{index}_{t}", 0, 1) if free else 0 for t, free in enumerate(is_free)]
            )

    def _add_lifetimes(self) -> None:
        """(4)"""
        for index, buffer in enumerate(self.graph.buffers):
            for t, preserved in enumerate(self.preserve[index]):
                if isinstance(preserved, int):
                    continue
                written = 1 if buffer.producer is None else self.done[buffer.producer][t]
                if buffer.kept:
                    self._require(preserved >= written)
                    continue
                for consumer in buffer.consumers:
                    self._require(preserved >= written - self.done[consumer][t])

    def _add_modeled_lifetimes(self) -> None:
        """(7)"""
        for index, buffer in enumerate(self.graph.buffers):
            if not self.problem.sizes[index]:
                # no bytes, no preserve variables; but its readers wait for it all the same
                self._add_order([(buffer.producer, op) for op in buffer.consumers if buffer.producer is not None])
                continue
            row = self.preserve[index]
            for t in range(self.num_steps):
                if t:
                    created = 0 if buffer.producer is None else self.create(buffer.producer, t - 1)
                    self._require(row[t] <= row[t - 1] + created)
                if buffer.kept:
                    self._require(row[t] >= (1 if buffer.producer is None else self.done[buffer.producer][t]))
                for consumer in buffer.consumers:
                    self._require(row[t] >= self.create(consumer, t))

    def _add_peak(self) -> Any:
        """(5), (6)"""
        least = self.problem.units_of_floor(self.floor)
        most = None
        if self.incumbent is not None:
            most = max(least, self.problem.units_of_peak(peak_bytes(self.graph, self.incumbent)))
        peak = self.pulp.LpVariable("peak", least, most, cat="Integer")
        self.model.setObjective(peak + 0)
        own = list(self.problem.workspaces)
        for index, buffer in enumerate(self.graph.buffers):
            if buffer.producer is not None:
                own[buffer.producer] += self.problem.sizes[index]
        for t in range(self.num_steps):
            created = [own[op] * self.create(op, t) for op in range(self.num_steps) if own[op]]
            sizes = self.problem.sizes
            resident = [sizes[index] * row[t] for index, row in enumerate(self.preserve) if sizes[index]]
            self._require(peak >= self.pulp.lpSum(created) + self.pulp.lpSum(resident))
        return peak

    def _require(self, constraint: Any) -> None:
        """Add a constraint; one between constants only must hold, and is left out."""
        if isinstance(constraint, bool):
            assert constraint, "windows contradict a precedence"
        elif len(constraint):
            self.model += constraint

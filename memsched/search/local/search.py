"""Local search: an order is improved until it meets a bound or its budget of work ends.  It is never made worse.

1. Nested cuts (`memsched.search.local.nested`) bring a high order down in a few passes.
2. Cut descent.  Take the op of the largest step and reroute the order through the least down-set with which that op can
   run (`memsched.search.cuts.cuts`): its step falls to what no order undercuts, and, live bytes being submodular, most
   of the steps around it do not rise.  Repeat with the next op, each op once, until nothing has improved for a while. A
   dozen cuts take the stock order of a large backward graph to within a few percent of the best known.
3. Windows.  Around a random one of the largest steps take a window of consecutive positions and either cut it at that
   step or solve it exactly (`memsched.search.local.window`).  Accept what raises neither the peak nor the bytes above a
   random threshold below it, so that plateaus are crossed.
4. Restarts.  When windows no longer help, start again from a random order, or from a shaken copy of the best.

            │ █                     cut at the highest step                 window around the highest step
    bytes   │ █ █       █    ──>    everything that need not be    ──>      the ops of a few positions
            │ █ █ ▄ ▄ ▄ █           live there moves behind it              in their best order
            └─────────────

Only windows are replayed (`memsched.search.local.timeline`).  Work is counted in units, random choices come from one
seeded generator, ties end in positions or op indices: the same call gives the same order.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Sequence

from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.cuts.cuts import CutSolver, reroute
from memsched.search.local.nested import NestedCuts
from memsched.search.local.timeline import Replay, Timeline
from memsched.search.local.window import WindowCutter, reorder_window
from memsched.search.orders.inductor import priority_order, stock_orders

__all__ = ["improve"]

_WINDOW_STATES = 500
"""States after which an exact window is given up."""
_CUTS_WITHOUT_GAIN = 8
"""Cuts in a row that lower no peak, after which a descent ends."""
_WINDOWS_WITHOUT_GAIN = 60
"""Windows in a row that lower nothing, after which the search starts again from another order."""
_LOW_STARTS = 2
"""Of the start orders, the lowest, which are tried before windows and with and without nested cuts."""
_NUM_HOT = 128
"""How many of the largest steps are candidates for the middle of a window."""
_MAX_CACHED_BYTES = 1 << 26
"""Down-sets of ops are kept up to this many bytes."""


def improve(graph: Graph, order: Sequence[int], *, floor: int = 0, budget: Budget, seed: int = 0) -> tuple[int, ...]:
    """An order whose peak is not above that of `order`, a topological order of `graph`.

    floor: a proved lower bound in bytes; the search stops when the peak reaches it.
    budget: the work that may be spent; the answer does not depend on the clock unless `budget.timed_out`.
    """
    search = _LocalSearch(graph, order, floor, budget, seed)
    budget.spend(len(graph) // prices.TABLED_OPS)
    starts = sorted(
        dict.fromkeys((tuple(order), *stock_orders(graph).values())), key=lambda start: peak_bytes(graph, start)
    )
    for start in starts[:_LOW_STARTS]:
        search.descend(search.nested(start))
        search.descend(start)
    search.load_best()
    search.windows()
    for start in starts[_LOW_STARTS:]:
        search.descend(search.nested(start))
    search.load_best()
    search.windows()
    while search.going_on():
        search.restart()
    return tuple(search.best_order)


class _LocalSearch:
    """The best order so far, the timeline that moves act on, and the cuts that have been computed."""

    def __init__(self, graph: Graph, order: Sequence[int], floor: int, budget: Budget, seed: int) -> None:
        self.graph, self.floor, self.budget = graph, floor, budget
        self.best_order = list(order)
        self.best_peak = peak_bytes(graph, order)
        self._ends = max(graph.start_bytes, graph.end_bytes)
        self._random = random.Random(seed)
        self._timeline = Timeline(graph, order)
        self._cutter = WindowCutter(self._timeline)
        self._cut_solver = CutSolver(graph)
        self._down_sets: dict[int, bytearray] = {}
        self._hot: list[tuple[int, int]] | None = None

    def going_on(self) -> bool:
        """Whether there is something to gain and something left to spend."""
        return self.best_peak > max(self.floor, self._ends) and not self.budget.exhausted

    def load_best(self) -> None:
        """Continue from the best order."""
        self._timeline.load(self.best_order)
        self._hot = None

    def restart(self) -> None:
        """A descent and windows from a random order or from a shaken copy of the best."""
        draw = self._random
        if draw.random() < 0.3:
            priority = [draw.random() for _ in range(len(self.graph))]
        else:
            spread = len(self.graph) * draw.choice((0.005, 0.02, 0.05, 0.1))
            priority = [0.0] * len(self.graph)
            for at, op in enumerate(self.best_order):
                priority[op] = at + draw.gauss(0.0, spread)
        self.descend(priority_order(self.graph, priority), stay=draw.random() < 0.5)
        self.windows()

    # ------------------------------------------------------------------ cuts

    def nested(self, order: Sequence[int]) -> Sequence[int]:
        """`order` cut in nested windows (`memsched.search.local.nested`), which never raises its peak."""
        self._timeline.load(order)
        self.budget.spend(1 + len(self.graph) // prices.REPLAYED_STEPS)
        NestedCuts(self._timeline, self._cutter, self.floor, self.budget).lower()
        self._hot = None
        self._keep_if_better()
        return tuple(self._timeline.order)

    def descend(self, order: Sequence[int], stay: bool = False) -> None:
        """Reroute `order` through the cut of its largest step, again and again, each op once; stay at the best.

        stay: the op of the step keeps its place among those that follow the down-set; otherwise it may also come first.
        """
        timeline = self._timeline
        timeline.load(order)
        self.budget.spend(1 + len(self.graph) // prices.REPLAYED_STEPS)
        cut_once: set[int] = set()
        least, least_order = max(timeline.step_peaks), list(timeline.order)
        without_gain = 0
        while without_gain < _CUTS_WITHOUT_GAIN and least > self.floor and self.going_on():
            step_peaks, ops = timeline.step_peaks, timeline.order
            at = max((at for at in range(len(ops)) if ops[at] not in cut_once), key=step_peaks.__getitem__, default=-1)
            if at < 0 or step_peaks[at] <= self.floor:
                break
            op = ops[at]
            cut_once.add(op)
            self._reroute(op, self._down_set(op), stay)
            peak = max(timeline.step_peaks)
            without_gain += 1
            if peak < least:
                least, least_order, without_gain = peak, list(timeline.order), 0
        timeline.load(least_order)
        self._hot = None
        self._keep_if_better()

    def _down_set(self, op: int) -> bytearray:
        """The least down-set at `op`; it depends on the graph alone."""
        done = self._down_sets.get(op)
        if done is None:
            cut = self._cut_solver.cut_at(op)
            assert cut is not None
            done = cut.done
            self.budget.spend(1 + self._cut_solver.work // prices.CUT_WORK_IN_LOCAL_SEARCH)
            if len(done) * len(self._down_sets) < _MAX_CACHED_BYTES:
                self._down_sets[op] = done
        return done

    def _reroute(self, op: int, done: bytearray, stay: bool) -> None:
        """Run the down-set first, then `op` at once or where it stood, whichever needs less.

        Only the positions between the first gap in the down-set and its last op (or `op`) change.
        """
        timeline = self._timeline
        order = timeline.order
        start = next(at for at, other in enumerate(order) if not done[other])
        last = next((at for at in range(len(order) - 1, -1, -1) if done[order[at]]), 0)
        stop = max(last, timeline.position[op]) + 1
        candidates = [reroute(order[start:stop], done)]
        if not stay:
            candidates.append(reroute(order[start:stop], done, op))
        timeline.replace_by_better(start, stop, candidates)
        self.budget.spend(1 + (len(order) + 2 * len(candidates) * (stop - start)) // prices.REPLAYED_STEPS // 2)

    # ------------------------------------------------------------------ windows

    def windows(self) -> None:
        """Cut and reorder windows around the largest steps until nothing has improved for a while."""
        without_gain = 0
        while without_gain < _WINDOWS_WITHOUT_GAIN and self.going_on():
            without_gain += 1
            if self._try_window():
                without_gain = 0

    def _try_window(self) -> bool:
        """One move; whether it improved the order."""
        timeline, draw = self._timeline, self._random
        hot = self._hot_steps()
        peak = -hot[0][0]
        threshold = peak - int((peak - self.floor) * draw.random() ** 2 * 0.5)
        at = hot[draw.randrange(max(1, bisect_left(hot, (-threshold, len(timeline.order)))))][1]
        cut = draw.random() < 0.5
        width = draw.choice((16, 32, 64, 128, 256, 512)) if cut else draw.randint(6, 40)
        start = max(0, at - draw.randint(0, width))
        stop = min(len(timeline.order), at + 1 + draw.randint(0, width) if cut else start + width)
        candidates, work = self._candidates(start, stop, at if cut else None)
        self.budget.spend(1 + work + len(candidates) * (stop - start) // prices.REPLAYED_STEPS)
        replays = [(timeline.replay(start, stop, ops), ops) for ops in candidates if ops != timeline.order[start:stop]]
        if not replays:
            return False
        replay, ops = min(replays, key=lambda pair: max(pair[0][0]))
        return self._accept(start, stop, ops, replay, peak, threshold)

    def _candidates(self, start: int, stop: int, at: int | None) -> tuple[list[list[int]], int]:
        """Orders of a window, cut at position `at` or (None) solved; and the units of work that they cost."""
        if at is not None:
            return list(self._cutter.cut_window(start, stop, at)), 1 + (stop - start) // prices.REPLAYED_STEPS
        ops, num_states = reorder_window(self._timeline, start, stop, _WINDOW_STATES)
        return [] if ops is None else [ops], num_states // prices.WINDOW_STATES

    def _accept(self, start: int, stop: int, ops: list[int], replay: Replay, peak: int, threshold: int) -> bool:
        """Take the window unless it raises the peak or the bytes above the threshold; whether these fell."""
        if max(replay[0]) > peak:
            return False
        excess_before = sum(step - threshold + 1 for step in self._timeline.step_peaks[start:stop] if step >= threshold)
        excess = sum(step - threshold + 1 for step in replay[0] if step >= threshold)
        if excess > excess_before:
            return False
        self._timeline.replace(start, stop, ops, replay)
        self._hot = None
        self._keep_if_better()
        return excess < excess_before

    def _hot_steps(self) -> list[tuple[int, int]]:
        """The largest steps as (-bytes, position), largest first."""
        if self._hot is None:
            pairs = [(-step, at) for at, step in enumerate(self._timeline.step_peaks)]
            self._hot = heapq.nsmallest(_NUM_HOT, pairs)
            self.budget.spend(1 + len(pairs) // prices.SCANNED_STEPS)
        return self._hot

    def _keep_if_better(self) -> None:
        peak = max(self._timeline.step_peaks)
        if peak < self.best_peak:
            self.best_peak, self.best_order = max(peak, self._ends), list(self._timeline.order)

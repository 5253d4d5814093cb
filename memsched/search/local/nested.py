"""Nested cuts: a high order of a long graph falls in a few passes, each about as dear as one cut of the whole.

Rerouting an order through the least down-set of an op (`memsched.search.cuts.cuts`) lowers the steps around that op.
In a graph of many layers that is one layer of many, and every cut looks at all of the graph.  But an order that passes
a down-set falls into two parts, and live bytes being submodular, the least down-sets of two ops are nested or can be
made so without more bytes, as long as both ops stay on their sides.  So the next cuts are made in the parts alone:

    bytes  │     ▄▄██     a cut in the middle of      │              and so on    │
           │  ▄▄█████     what is too high splits     │   ▄▄   ▄▄    in each      │
           │▄████████     the order in two parts  ──> │▄▄████ ▄██▄   part     ──> │▄▄▄▄ ▄▄▄▄▄
           └─────────                                 └───────────                └──────────

A pass cuts every part in the middle of its steps above a threshold, until a part has none or is not split; the
threshold of each pass is half way from the peak to the floor, or from the last threshold, and the first pass that does
not lower the peak is the last.  With n ops and k layers a pass looks at about n log k ops; a cut of the whole for each
layer looks at n k.  For the backward of 24 layers with shared weights, of 4,000 ops, that was 7,000 units for 47,000.

What a window leaves out may still matter, so cuts of the whole (`memsched.search.local.search`) follow.
"""

from __future__ import annotations

import itertools

from memsched.search import prices
from memsched.search.budget import Budget
from memsched.search.local.timeline import Timeline
from memsched.search.local.window import WindowCutter

__all__ = ["NestedCuts"]

_SPLIT = 0.9
"""A part that keeps more of its steps than that has not been split."""
_PLACES = (0.5, 0.75, 0.25, 0.9)
"""Where in a part it is cut, until a cut splits it; behind those a pass leaves it alone."""


class NestedCuts:
    """The parts of the order of `timeline` between the down-sets that it has been rerouted through.

    floor: bytes that no order goes below.  Each op is cut once.
    """

    def __init__(self, timeline: Timeline, cutter: WindowCutter, floor: int, budget: Budget) -> None:
        self._timeline, self._cutter, self._floor, self._budget = timeline, cutter, floor, budget
        self._ends = {0, len(timeline.order)}
        self._cut_once: set[int] = set()

    def lower(self) -> None:
        """Cut in passes; the timeline has the best order then, which is never above the one that it had."""
        timeline, floor = self._timeline, self._floor
        threshold = least = max(timeline.step_peaks, default=0)
        least_order = list(timeline.order)
        while least > floor and not self._budget.exhausted:
            threshold = floor + (min(threshold, least) - floor) // 2
            self._pass(threshold)
            peak = max(timeline.step_peaks)
            if peak >= least:
                timeline.load(least_order)
                break
            least, least_order = peak, list(timeline.order)

    def _pass(self, threshold: int) -> None:
        """Cut every part until it has no step above `threshold`, or is left alone."""
        ends = sorted(self._ends)
        parts = [(start, stop, 0) for start, stop in itertools.pairwise(ends)]
        while parts and not self._budget.exhausted:
            start, stop, without_split = parts.pop()
            at = self._high_step(start, stop, threshold, _PLACES[without_split])
            if at is None:
                continue
            split = self._cut(start, stop, at)
            self._ends.add(split)
            for first, last in ((start, split), (split, stop)):
                tries = without_split + 1 if last - first > _SPLIT * (stop - start) else 0
                if first < last and tries < len(_PLACES):
                    parts.append((first, last, tries))

    def _high_step(self, start: int, stop: int, threshold: int, place: float) -> int | None:
        """Of the positions above `threshold` the one nearest to that share of the part, or None."""
        order, step_peaks = self._timeline.order, self._timeline.step_peaks
        high = [at for at in range(start, stop) if step_peaks[at] > threshold and order[at] not in self._cut_once]
        self._budget.spend(1 + (stop - start) // prices.SCANNED_STEPS)
        wanted = start + int(place * (stop - start))
        return min(high, key=lambda at: abs(at - wanted), default=None)

    def _cut(self, start: int, stop: int, at: int) -> int:
        """Reroute the part through the least down-set of the op at `at`; the position at which that has run."""
        timeline = self._timeline
        op = timeline.order[at]
        self._cut_once.add(op)
        candidates = self._cutter.cut_window(start, stop, at)
        split = start + candidates[1].index(op)
        timeline.replace_by_better(start, stop, candidates)
        self._budget.spend(1 + self._cutter.work // prices.CUT_WORK_IN_LOCAL_SEARCH)
        self._budget.spend(2 * (stop - start) // prices.REPLAYED_STEPS)
        return split

"""The ladder: which lever is pulled how far, cheapest first, until a budget is met or nothing helps.

    rung   setting                                      moment     peak     recomputed
    0      order and fusion                             loss       43.2
    1      loss in 4 chunks                             backward   31.1     0.0 GFLOP
    2      loss in 4 chunks, a checkpoint per block     loss        8.5     0.8 GFLOP

From a rung the changes are tried that one lever can make, or the loss in chunks and another together.  Of those that
lower the peak the cheapest is taken: the least work for each byte, recomputed or in the place of what is moved.  Where
the loss binds its lever is tried first, and if it helps no other is.  Where a budget lies between two rungs, what costs
less than the lower one is tried besides: checkpoints in a quarter of the blocks, a half, three quarters; the shares of
the knapsack; other shares of what waits on the host.

Claims.  Peaks strictly fall along the ladder, and where it goes next does not depend on the budget, which only says
where to stop: so a smaller budget never gets a higher peak.  Every plan is made once, their number is bounded by
`most_plans`, and equal plans give equal ladders, on every rank.

Rungs may be estimated (`levers/depth.py`).  The one at which the ladder stops is then planned, and where it does not
fit after all, the climb goes on from it.  Peaks still fall, but two budgets that lie within the error of an estimate
from each other may get each other's rung.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from memsched.levers.moments import Moment
from memsched.levers.setting import Lever, Setting, between, changes_of

__all__ = ["FLOPS_PER_MOVED_BYTE", "Ladder", "Rung", "climb"]

FLOPS_PER_MOVED_BYTE = 8_000
"""For choosing between recomputing and moving: 400 TFLOP/s of an H100 in practice, over 50 GB/s of PCIe 5.0 one way;
an A100 has 150 over 25.  As if nothing else ran while the link is busy."""

_LEAST_GAIN = 0.005
"""The share of a peak that a rung must at least save: below, the next rung is not worth its kernels."""
_CLEAR_GAIN = 0.1
"""The share that a lever saves of which it is clear that it acts at the moment that binds."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One planned setting; bytes of the graph that needs most, FLOPs of products and convolutions of the whole step.

    stock_peak: what stock's own kernels and order need for the same traced graphs.
    graph: the name of that graph; blame: the largest tensor that is alive at its peak, for people.
    moved: bytes that the step copies between the GPU and the host.
    estimated: whether the step was not planned whole; there is no bound then.
    """

    setting: Setting
    peak: int
    stock_peak: int
    bound: int
    status: str
    moment: Moment
    kernels: int
    flops: int
    graph: str = ""
    blame: str = ""
    moved: int = 0
    estimated: bool = False

    @property
    def work(self) -> int:
        """FLOPs, with what a GPU computes while its link to the host moves what is moved."""
        return self.flops + FLOPS_PER_MOVED_BYTE * self.moved


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rungs from the one that costs nothing on; peaks strictly fall.

    budget: bytes that were asked for, or None; plans: how many settings were planned.
    interrupted: whether the user ended the climb: there may be rungs further down.
    """

    rungs: tuple[Rung, ...]
    budget: int | None = None
    plans: int = 0
    interrupted: bool = False

    @property
    def chosen(self) -> Rung:
        """The first rung within the budget; the last where none is; without a budget the last."""
        if self.budget is None:
            return self.rungs[-1]
        return next((rung for rung in self.rungs if rung.peak <= self.budget), self.rungs[-1])

    @property
    def fits(self) -> bool:
        """Whether the budget is met."""
        return self.budget is None or self.chosen.peak <= self.budget

    def recomputed(self, rung: Rung) -> int:
        """FLOPs that `rung` computes more than the first one."""
        return max(0, rung.flops - self.rungs[0].flops)


def climb(
    plan: Callable[[Setting], Rung],
    levers: Sequence[Lever],
    *,
    budget: Callable[[Rung], int] | None = None,
    first: Setting | None = None,
    most_plans: int = 24,
    most_rungs: int | None = None,
    on_rung: Callable[[Rung], None] = lambda _rung: None,
    confirm: Callable[[Setting], Rung] | None = None,
    interruptible: bool = False,
) -> Ladder:
    """Climb until the budget is met; without one, until nothing helps.

    plan: the rung of a setting; may raise ValueError for one that cannot be planned, which is then left out, but for
        the first.
    budget: bytes, given the first rung.
    first: where to begin.
    most_rungs: how many rungs above the first; None goes on.  on_rung: told each rung as it is found.
    confirm: the planned rung of a setting whose rung was estimated; asked where the climb would end.
    interruptible: a KeyboardInterrupt behind the first rung ends the climb, and what was found is returned.
    """
    planner = _Planner(plan, confirm or plan, most_plans)
    here = planner.first(first or Setting())
    climbed = _Climb(planner, levers, None if budget is None else budget(here), most_rungs, on_rung)
    climbed.add(here)
    interrupted = False
    try:
        climbed.go_on()
    except KeyboardInterrupt:
        if not interruptible:
            raise
        interrupted = True
    return Ladder(tuple(climbed.rungs), climbed.limit, planner.plans, interrupted)


class _Climb:
    """The rungs so far."""

    def __init__(
        self,
        planner: _Planner,
        levers: Sequence[Lever],
        limit: int | None,
        most_rungs: int | None,
        on_rung: Callable[[Rung], None],
    ) -> None:
        self.planner, self.levers, self.limit = planner, levers, limit
        self.most_rungs, self.on_rung = most_rungs, on_rung
        self.rungs: list[Rung] = []

    def add(self, rung: Rung) -> None:
        self.rungs.append(rung)
        self.on_rung(rung)

    def go_on(self) -> None:
        """Until the last rung meets the budget, or nothing helps, and is planned."""
        while True:
            if self._is_met() or not self._is_room() or not self._next():
                if not self.rungs[-1].estimated:
                    return
                self._confirm_last()

    def _is_met(self) -> bool:
        return self.limit is not None and self.rungs[-1].peak <= self.limit

    def _is_room(self) -> bool:
        return self.most_rungs is None or len(self.rungs) <= self.most_rungs

    def _next(self) -> bool:
        """Go on to the next rung, or through those before it down to the budget; whether there is one."""
        following = _next(self.rungs[-1], self.levers, self.planner)
        if following is None:
            return False
        if self.limit is None or following.peak > self.limit:
            self.add(following)
            return True
        for rung in _between(self.rungs[-1], following, self.planner):
            self.add(rung)
            if self._is_met():
                break
        return True

    def _confirm_last(self) -> None:
        """Plan the last rung; estimates that are not above it leave the ladder, and so does it if it is not lower."""
        rung = self.planner.confirmed(self.rungs[-1], must=len(self.rungs) == 1)
        self.rungs.pop()
        if rung is None:
            return
        while len(self.rungs) > 1 and self.rungs[-1].estimated and self.rungs[-1].peak <= rung.peak:
            self.rungs.pop()
        if not self.rungs or rung.peak < self.rungs[-1].peak:
            self.add(rung)


class _Planner:
    """Plans each setting once, and no more than a number of them; confirms estimates beyond that."""

    def __init__(self, plan: Callable[[Setting], Rung], confirm: Callable[[Setting], Rung], most: int) -> None:
        self._plan, self._confirm, self._left = plan, confirm, most
        self._known: dict[Setting, Rung | None] = {}

    @property
    def plans(self) -> int:
        return len(self._known)

    def first(self, setting: Setting) -> Rung:
        """The rung of the setting that must be planned."""
        self._left -= 1
        rung = self._known[setting] = self._plan(setting)
        return rung

    def rung(self, setting: Setting) -> Rung | None:
        if setting not in self._known:
            if self._left == 0:
                return None
            self._left -= 1
            try:
                self._known[setting] = self._plan(setting)
            except ValueError:
                self._known[setting] = None
        return self._known[setting]

    def confirmed(self, rung: Rung, *, must: bool) -> Rung | None:
        """The rung, planned, and known as that from now on; None where it cannot be, but for one that must."""
        try:
            self._known[rung.setting] = self._confirm(rung.setting)
        except ValueError:
            if must:
                raise
            self._known[rung.setting] = None
        return self._known[rung.setting]

    def better(self, settings: Iterable[Setting], than: Rung) -> Iterator[Rung]:
        """The rungs that are lower than `than` by what counts."""
        for setting in settings:
            rung = self.rung(setting)
            if rung is not None and rung.peak < than.peak * (1 - _LEAST_GAIN):
                yield rung


def _next(here: Rung, levers: Sequence[Lever], planner: _Planner) -> Rung | None:
    alone = {lever: list(changes_of(here.setting, lever)) for lever in levers}
    if here.moment is Moment.LOSS and Lever.CHUNK_LOSS in alone:
        chunked = next(planner.better(alone[Lever.CHUNK_LOSS], here), None)
        if chunked is not None and chunked.peak < here.peak * (1 - _CLEAR_GAIN):
            return chunked
    found = [rung for settings in alone.values() for rung in planner.better(settings, here)]
    if not found:
        found = list(planner.better(_together(here.setting, levers), here))
    return min(found, key=lambda rung: _price(rung, here), default=None)


def _between(above: Rung, below: Rung, planner: _Planner) -> list[Rung]:
    """The rungs between two, work rising and peaks falling, and `below`.

    All of them are planned, whatever the budget: what is chosen for less memory is never higher.
    """
    planned = [planner.rung(setting) for setting in between(above.setting, below.setting)]
    cheaper = [rung for rung in planned if rung is not None and rung.work < below.work and rung.peak > below.peak]
    found: list[Rung] = []
    for rung in sorted(cheaper, key=lambda rung: (rung.work, rung.peak)):
        if rung.peak < (found[-1] if found else above).peak:
            found.append(rung)
    return [*found, below]


def _together(setting: Setting, levers: Sequence[Lever]) -> Iterator[Setting]:
    """The loss in chunks and another lever at once: two moments may be equally high, and one alone lowers nothing."""
    if Lever.CHUNK_LOSS not in levers:
        return
    for lever in levers:
        if lever is not Lever.CHUNK_LOSS:
            for other in changes_of(setting, lever):
                for chunked in changes_of(setting, Lever.CHUNK_LOSS):
                    yield replace(other, chunks=chunked.chunks)


def _price(rung: Rung, here: Rung) -> tuple[float, int]:
    """Work for each byte saved, then the peak."""
    return max(0, rung.work - here.work) / (here.peak - rung.peak), rung.peak

"""The ladder on made-up steps: where it goes, what it never does."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from memsched.levers.ladder import Ladder, Rung, climb
from memsched.levers.moments import Moment
from memsched.levers.setting import AUTOMATIC, Lever, Setting, changes_of

LEVERS = tuple(Lever)


def step(logits: int, saved: int, block: int) -> Callable[[Setting], Rung]:
    """A step whose peak is the logits, or a block's working set, on top of what is saved."""

    def plan(setting: Setting) -> Rung:
        kept = int(saved * setting.saved_share)
        if setting.checkpoint_blocks:
            kept = saved - int(saved * 7 / 8 * setting.checkpoint_share)
        loss, backward = kept + logits // max(1, setting.chunks), kept + block
        flops = 1000 + (saved - kept)
        moment = Moment.LOSS if loss > backward else Moment.BACKWARD
        peak = max(loss, backward)
        return Rung(setting, peak, peak, 0, "bounded", moment, 10 + setting.chunks, flops)

    return plan


def test_the_lever_that_acts_where_the_peak_is_goes_first() -> None:
    """Logits 100 over 40 saved: the loss in chunks; then what is saved binds, and is recomputed."""
    ladder = climb(step(logits=100, saved=40, block=5), LEVERS)
    assert [rung.setting.chunks for rung in ladder.rungs[:2]] == [0, 4]
    assert ladder.rungs[-1].setting.checkpoint_blocks == 1


def test_the_cheapest_of_what_helps_is_taken() -> None:
    """Half of what is saved costs less for each byte than all of it only if it saves as much: price decides."""
    ladder = climb(step(logits=0, saved=64, block=1), LEVERS, budget=lambda _rung: 40)
    prices = [rung.flops for rung in ladder.rungs]
    assert prices == sorted(prices)
    assert ladder.fits and ladder.chosen.peak <= 40


@pytest.mark.parametrize("seed", range(20))
def test_peaks_fall_and_a_smaller_budget_never_gets_a_higher_peak(seed: int) -> None:
    rng = random.Random(seed)
    plan = step(rng.randint(0, 500), rng.randint(1, 500), rng.randint(1, 200))
    whole = climb(plan, LEVERS)
    peaks = [rung.peak for rung in whole.rungs]
    assert all(after < before for before, after in itertools.pairwise(peaks))
    chosen = [climb(plan, LEVERS, budget=lambda _rung, b=budget: b).chosen.peak for budget in range(max(peaks), 0, -7)]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[-1] == peaks[-1], "the ladder does not depend on the budget"


def test_a_budget_that_is_met_at_once_costs_one_plan() -> None:
    ladder = climb(step(100, 40, 5), LEVERS, budget=lambda _rung: 1000)
    assert (len(ladder.rungs), ladder.plans, ladder.fits) == (1, 1, True)


def test_a_budget_between_two_rungs_recomputes_no_more_than_it_must() -> None:
    """All blocks would bring 64 to 8 for 56 of work; for 40 the first half of them is enough."""
    ladder = climb(step(logits=0, saved=64, block=0), (Lever.RECOMPUTE,), budget=lambda _rung: 40)
    whole = climb(step(logits=0, saved=64, block=0), (Lever.RECOMPUTE,))
    assert ladder.fits
    assert ladder.chosen.flops < min(rung.flops for rung in whole.rungs if rung.peak <= 40)
    peaks = [rung.peak for rung in ladder.rungs]
    assert all(after < before for before, after in itertools.pairwise(peaks))


def waiting(setting: Setting) -> Rung:
    """64 saved: recomputed for a FLOP each byte, or on the host, there and back; 8 are a block's."""
    kept = 64 * (0.1 if setting.checkpoint_blocks else setting.saved_share) * (1 - setting.offload_share)
    again = 0 if not setting.checkpoint_blocks and setting.saved_share == 1 else 58
    moved = int(2 * 64 * setting.offload_share * (0.1 if setting.checkpoint_blocks else 1))
    peak = 8 + int(kept)
    return Rung(setting, peak, 72, 0, "bounded", Moment.BACKWARD, 10, 1000 + again, moved=moved)


def test_what_is_moved_has_a_price_and_is_moved_where_nothing_else_is_left() -> None:
    """A byte over the link costs what the GPU computes meanwhile: recomputing 58 FLOPs comes first."""
    ladder = climb(waiting, (Lever.RECOMPUTE, Lever.OFFLOAD))
    settings = [rung.setting for rung in ladder.rungs]
    assert settings[1].checkpoint_blocks == 1 and not settings[1].offload_share
    assert settings[-1].checkpoint_blocks == 1 and settings[-1].offload_share == 1.0
    assert [rung.work for rung in ladder.rungs] == sorted(rung.work for rung in ladder.rungs)


def test_no_more_is_moved_than_a_budget_asks_for() -> None:
    """Half would bring 72 to 40; for 60 an eighth is too little, a quarter enough."""
    ladder = climb(waiting, (Lever.OFFLOAD,), budget=lambda _rung: 60)
    assert ladder.chosen.setting.offload_share == 0.25


def test_what_cannot_be_planned_is_left_out_and_the_first_is_told() -> None:
    plan = step(100, 40, 5)

    def chunks_fail(setting: Setting) -> Rung:
        if setting.chunks:
            raise ValueError("no loss")
        return plan(setting)

    ladder = climb(chunks_fail, LEVERS)
    assert all(not rung.setting.chunks for rung in ladder.rungs)
    with pytest.raises(ValueError, match="nothing"):
        climb(lambda _setting: (_ for _ in ()).throw(ValueError("nothing to plan")), LEVERS)


def test_an_interrupted_climb_keeps_its_rungs_where_that_is_asked_for() -> None:
    """The ladder is a begin of the whole one; a compile, which does not ask, is interrupted."""
    plan, whole = step(100, 40, 5), climb(step(100, 40, 5), LEVERS)
    planned: list[Setting] = []

    def stopped(setting: Setting) -> Rung:
        planned.append(setting)
        if len(planned) == whole.plans:
            raise KeyboardInterrupt
        return plan(setting)

    ladder = climb(stopped, LEVERS, interruptible=True)
    assert ladder.interrupted and ladder.rungs == whole.rungs[: len(ladder.rungs)]
    planned.clear()
    with pytest.raises(KeyboardInterrupt):
        climb(stopped, LEVERS)
    assert not whole.interrupted


def test_the_number_of_plans_is_bounded() -> None:
    assert climb(step(1 << 20, 1 << 20, 1), LEVERS, most_plans=3).plans <= 3


def test_the_number_of_rungs_is_bounded_and_they_are_the_first_of_the_whole_ladder() -> None:
    whole = climb(step(100, 40, 5), LEVERS)
    assert len(whole.rungs) > 2
    assert climb(step(100, 40, 5), LEVERS, most_rungs=1).rungs == whole.rungs[:2]


def test_levers_that_are_not_named_are_not_pulled() -> None:
    ladder = climb(step(100, 40, 5), (Lever.CHUNK_LOSS,))
    assert all(rung.setting.checkpoint_blocks == 0 and rung.setting.saved_share == 1 for rung in ladder.rungs)


@pytest.mark.parametrize("knapsack_is_cheaper", [False, True])
def test_between_two_rungs_the_cheaper_family_is_taken(knapsack_is_cheaper: bool) -> None:
    """Checkpoints per block end at 20 of 100; a budget of 60 lies between, where half of them or a knapsack get."""
    cost = 1 if knapsack_is_cheaper else 9

    def plan(setting: Setting) -> Rung:
        share = setting.checkpoint_share if setting.checkpoint_blocks else 0
        peak = int(100 - 80 * share) if share else int(100 * max(0.55, setting.saved_share))
        flops = 1000 + int(100 * share) + int(20 * cost * (1 - setting.saved_share))
        return Rung(setting, peak, peak, 0, "bounded", Moment.BACKWARD, 1, flops)

    chosen = {budget: climb(plan, LEVERS, budget=lambda _first, b=budget: b).chosen for budget in range(20, 100)}
    assert (chosen[60].setting.saved_share < 1) == knapsack_is_cheaper
    assert all(rung.peak <= budget for budget, rung in chosen.items())
    peaks = [rung.peak for rung in chosen.values()]
    assert peaks == sorted(peaks)


def test_tokens_come_in_chunks_where_that_is_asked_for_by_name() -> None:
    def plan(setting: Setting) -> Rung:
        peak = 90 if setting.token_chunks else 100
        return Rung(setting, peak, peak, 0, "bounded", Moment.BACKWARD, 1, 1000)

    assert climb(plan, tuple(Lever)).chosen.setting.token_chunks == 4
    assert climb(plan, AUTOMATIC).chosen.setting.token_chunks == 0


@pytest.mark.parametrize(
    ("levers", "pulled"),
    [
        ((Lever.CHUNK_LOSS, Lever.RECOMPUTE), Setting(4, 1)),
        ((Lever.CHUNK_LOSS, Lever.CHUNK_TOKENS), Setting(4, token_chunks=4)),
        ((Lever.RECOMPUTE, Lever.CHUNK_TOKENS), Setting()),
    ],
)
def test_levers_that_help_only_together_are_those_that_are_named(levers: tuple[Lever, ...], pulled: Setting) -> None:
    """The loss and another moment are equally high; what is not named must not be pulled to lower the other."""

    def plan(setting: Setting) -> Rung:
        other = setting.checkpoint_blocks or setting.token_chunks
        peak = 50 if setting.chunks and other else 100
        return Rung(setting, peak, peak, 0, "bounded", Moment.BACKWARD, 1, 1000)

    assert climb(plan, levers).chosen.setting == pulled


def test_two_moments_that_are_equally_high_are_lowered_together() -> None:
    """One lever alone lowers nothing: the other moment binds at the same height."""

    def plan(setting: Setting) -> Rung:
        loss = 50 if setting.chunks else 100
        backward = 60 if setting.checkpoint_blocks else 100
        peak = max(loss, backward)
        return Rung(setting, peak, peak, 0, "bounded", Moment.BACKWARD, 1, 1000)

    ladder = climb(plan, LEVERS)
    assert ladder.rungs[-1].peak == 60


def test_settings_name_the_options_that_give_them() -> None:
    assert Setting().to_options() == {}
    assert Setting(4, 1).to_options() == {"chunk_loss": 4, "checkpoint_blocks": 1}
    assert str(Setting(4, 1)) == "loss in 4 chunks, a checkpoint per block"
    assert Setting(0, 1, 0.5).to_options() == {"checkpoint_blocks": 1, "checkpoint_share": 0.5}
    assert str(Setting(0, 1, 0.5)) == "a checkpoint per block in the first 50%"
    assert list(changes_of(Setting(16), Lever.CHUNK_LOSS)) == []
    assert isinstance(climb(step(1, 1, 1), ()), Ladder)

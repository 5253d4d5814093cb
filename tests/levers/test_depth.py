"""Deep steps from shallow ones, and ladders that are climbed on estimates."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import memory_profile
from memsched.core.result import Schedule, Status
from memsched.levers.depth import ShallowRung, at_depth
from memsched.levers.ladder import Rung, climb
from memsched.levers.moments import Moment
from memsched.levers.setting import Lever, Setting
from memsched.records.report import GraphKind, GraphReport
from memsched.render.text.fit import fit_text
from tests.levers.test_ladder import step

LEVERS = tuple(Lever)


def of_layers(depth: int) -> ShallowRung:
    """At the logits 100, and 2 for each layer; its gradients are 10 for each layer: more, from 13 layers on.

    backward    logits ──> layer ──> layer ...        each layer keeps a gradient
    """
    ops = (Op("logits"), *(Op(f"layer{at}") for at in range(depth)))
    logits = Buffer("logits", 100 + 2 * depth, 0, (1,))
    gradients = (Buffer(f"gradient{at}", 10, at + 1, (), kept=True) for at in range(depth))
    links = tuple((at, at + 1) for at in range(depth))
    graph = Graph("backward", ops, (logits, *gradients), links)
    profile = memory_profile(graph, range(depth + 1))
    schedule = Schedule(tuple(range(depth + 1)), profile.peak, profile.peak, Status.OPTIMAL, "given", 0.0)
    report = GraphReport.planned(
        graph, schedule, name="backward 0", kind=GraphKind.BACKWARD, stock_peak=profile.peak, kernels=7 + 3 * depth
    )
    moment = Moment.LOSS if profile.peak_step < 2 else Moment.END
    rung = Rung(Setting(), profile.peak, profile.peak, 0, "optimal", moment, report.kernels, 50 * depth, moved=depth)
    return ShallowRung(depth, rung, [report])


def test_what_is_highest_with_many_layers_need_not_be_with_few() -> None:
    found = at_depth(of_layers(2), of_layers(4), 32)
    deep = of_layers(32).rung
    assert of_layers(4).rung.moment is Moment.LOSS and found.moment is Moment.END
    assert (found.peak, found.kernels, found.flops, found.moved) == (deep.peak, deep.kernels, deep.flops, deep.moved)
    assert found.estimated and found.bound == 0 and found.status == "estimated"


def about(seed: int) -> tuple[dict[Setting, Rung], dict[Setting, Rung]]:
    """What was planned and estimated so far; estimates are up to a tenth off."""
    rng = random.Random(seed)
    plan = step(rng.randint(0, 500), rng.randint(100, 500), rng.randint(1, 200))
    planned: dict[Setting, Rung] = {}
    estimated: dict[Setting, Rung] = {}
    for setting in _settings():
        planned[setting] = rung = plan(setting)
        peak = int(rung.peak * rng.uniform(0.9, 1.1))
        estimated[setting] = Rung(
            setting, peak, rung.stock_peak, 0, "estimated", rung.moment, rung.kernels, rung.flops, estimated=True
        )
    return planned, estimated


def _settings() -> set[Setting]:
    """All that a climb could ask for."""
    asked: set[Setting] = set()

    def note(setting: Setting) -> Rung:
        asked.add(setting)
        return step(100, 100, 10)(setting)

    for logits, saved, limit in itertools.product((0, 100, 400), (10, 100, 400), (0, 40, 90, 160, 300)):
        climb(step(logits, saved, 10), LEVERS, budget=lambda _rung, limit=limit: limit, on_rung=lambda _rung: None)
    shares = (1.0, 0.75, 0.5, 0.25)
    for chunks, tokens, blocks, share in itertools.product((0, 4, 16), (0, 4, 16), (0, 1), shares):
        for saved, offload in itertools.product((1.0, 0.9, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2), _OFFLOADS):
            note(Setting(chunks, blocks, share, saved, tokens, offload))
    return asked


_OFFLOADS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)


@pytest.mark.parametrize("seed", range(6))
def test_where_a_climb_on_estimates_ends_is_planned_and_peaks_fall(seed: int) -> None:
    planned, estimated = about(seed)
    first = planned[Setting()].peak
    for limit in [None, *range(first, 0, -first // 9)]:
        budget = None if limit is None else (lambda _rung, limit=limit: limit)
        ladder = climb(estimated.__getitem__, LEVERS, budget=budget, confirm=planned.__getitem__)
        chosen = ladder.chosen
        assert not chosen.estimated and chosen == planned[chosen.setting]
        assert ladder.fits == (limit is None or chosen.peak <= limit)
        peaks = [rung.peak for rung in ladder.rungs]
        assert all(after < before for before, after in itertools.pairwise(peaks))
        if not ladder.fits:
            assert not ladder.rungs[-1].estimated, "what is said to be the lowest was planned"


def test_an_estimate_that_does_not_hold_is_not_where_the_climb_ends() -> None:
    """The loss in chunks seems to be enough, and is not: the climb goes on behind it."""
    plan = step(logits=100, saved=64, block=5)
    too_low = Setting(chunks=4)

    def estimate(setting: Setting) -> Rung:
        rung = plan(setting)
        peak = 60 if setting == too_low else rung.peak
        return Rung(setting, peak, peak, 0, "estimated", rung.moment, rung.kernels, rung.flops, estimated=True)

    ladder = climb(estimate, (Lever.CHUNK_LOSS, Lever.RECOMPUTE), budget=lambda _rung: 60, confirm=plan)
    assert plan(too_low).peak > 60 >= ladder.chosen.peak
    assert ladder.fits and ladder.chosen.setting != too_low and not ladder.chosen.estimated


def test_what_cannot_be_planned_whole_is_left_out() -> None:
    plan = step(logits=100, saved=64, block=5)

    def confirm(setting: Setting) -> Rung:
        if setting.chunks:
            raise ValueError("too large")
        return plan(setting)

    def estimate(setting: Setting) -> Rung:
        rung = plan(setting)
        return Rung(setting, rung.peak, rung.peak, 0, "estimated", rung.moment, 1, rung.flops, estimated=True)

    ladder = climb(estimate, (Lever.CHUNK_LOSS,), confirm=confirm)
    assert [rung.setting for rung in ladder.rungs] == [Setting()] and not ladder.chosen.estimated


@pytest.mark.parametrize("limit", [None, 1000])
def test_an_interrupted_confirmation_leaves_the_estimate(limit: int | None) -> None:
    """A whole plan takes minutes: whoever does not wait for it has what was found."""
    plan = step(logits=100, saved=64, block=5)

    def confirm(_setting: Setting) -> Rung:
        raise KeyboardInterrupt

    def estimate(setting: Setting) -> Rung:
        return replace(plan(setting), bound=0, status="estimated", estimated=True)

    budget = None if limit is None else (lambda _rung: limit)
    ladder = climb(estimate, (Lever.CHUNK_LOSS,), budget=budget, confirm=confirm, interruptible=True)
    assert ladder.interrupted and ladder.chosen.estimated
    text = fit_text(ladder, train_step=True)
    assert "fits into" not in text and ("is estimated to fit into" in text) == (limit is not None)

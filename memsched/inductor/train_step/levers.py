"""The levers of a step: planned under one setting after the other, before its first compile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from memsched.inductor.failures import leave_to_stock, reason_of
from memsched.inductor.fit.choose import climb_for, missed_words
from memsched.inductor.fit.rungs import planned_step_rung
from memsched.inductor.train_step.options import StepOptions
from memsched.inductor.train_step.report import StepReport
from memsched.levers.ladder import Ladder, Rung
from memsched.levers.setting import Setting

__all__ = ["pull_levers"]

log = logging.getLogger("memsched")


def pull_levers(
    given: StepOptions, plan_step: Callable[[StepOptions], StepReport]
) -> tuple[StepOptions, Ladder | None]:
    """The options with the setting that was chosen, and the ladder; as given and without one where planning fails.

    plan_step: plans the step under options.
    """

    def plan(setting: Setting) -> Rung:
        at = replace(given, backend=given.backend.at(setting))
        return planned_step_rung(setting, lambda: plan_step(at))

    try:
        ladder = climb_for(given.backend, plan)
    except Exception as error:
        if given.backend.strict:
            raise
        leave_to_stock("the choice of levers", "pulling levers", reason_of(error))
        return replace(given, backend=given.backend.at(given.backend.setting)), None
    if not ladder.fits:
        log.warning("memsched: %s", missed_words(ladder))
    return replace(given, backend=given.backend.at(ladder.chosen.setting)), ladder

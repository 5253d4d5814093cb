"""The next rungs of the ladder: what `memsched.fit` would do first to this step, as experiments of `explain`.

    -51.07 MiB   -77%  options={"chunk_loss": 16, "checkpoint_blocks": 1}
    -22.49 MiB   -34%  options={"chunk_loss": 16}
    -16.49 MiB   -25%  options={"chunk_loss": 4}

Each is a line to paste into `torch.compile(model, backend="memsched", options=...)`.  (The model of `docs/fit.md`.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from memsched.inductor.fit.rungs import planned_rung, rung_of
from memsched.inductor.options import BackendOptions
from memsched.levers.ladder import Rung, climb
from memsched.levers.setting import AUTOMATIC, Setting
from memsched.records.report import GraphReport
from memsched.records.step import Experiment

__all__ = ["next_rungs"]

_RUNGS = 3
_MOST_PLANS, _MOST_PLANS_OF_LARGE = 9, 4
"""Plans in all, the one that is known among them: the answer is to come in the time of a few plans of the step."""
_LARGE = 1_500
"""Kernels of a step from which on a plan takes so long that fewer are made."""


def next_rungs(
    plan: Callable[[BackendOptions], list[GraphReport]],
    reports: Sequence[GraphReport],
    options: BackendOptions,
    tell: Callable[[str], None],
) -> list[Experiment]:
    """The peaks of the rungs above `options`, under which the step was planned as `reports`.

    tell: told what is being planned.  Nothing where a graph was left to stock, or no lever lowers the peak.
    """
    made: dict[Setting, list[GraphReport]] = {options.setting: list(reports)}

    def rung(setting: Setting) -> Rung:
        if setting in made:
            return rung_of(setting, made[setting])
        tell(f"planning {setting}")
        return planned_rung(setting, lambda: made.setdefault(setting, plan(options.at(setting))))

    plans = _MOST_PLANS if sum(report.ops for report in reports) < _LARGE else _MOST_PLANS_OF_LARGE
    try:
        ladder = climb(rung, AUTOMATIC, first=options.setting, most_plans=plans, most_rungs=_RUNGS)
    except ValueError:
        return []
    return [
        Experiment(
            f"options={json.dumps(step.setting.to_options())}",
            {report.name: report.peak for report in made[step.setting]},
        )
        for step in ladder.rungs[1:]
    ]

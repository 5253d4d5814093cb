"""Rungs of a step for CUDA, planned in workers: whole, or estimated from two steps with fewer layers at once.

    worker 0    2 layers ──> rung ─┐
    worker 1    4 layers ──> rung ─┴─> 32 layers, estimated
    worker 0    32 layers ──> rung                                  where the ladder stops

A plan takes CPU time in proportion to the layers: two shallow ones are a fifth of the work, in an eighth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memsched.core.sizes import InputError
from memsched.inductor.cuda_without_gpu import CudaWorker, StepPlan
from memsched.inductor.cuda_without_gpu.plans import StepFacts
from memsched.inductor.fit.rungs import rung_of, rung_of_step, with_update
from memsched.levers.depth import ShallowRung, at_depth
from memsched.levers.ladder import Rung
from memsched.levers.setting import Setting
from memsched.records.step import TRAIN_STEP

__all__ = ["CudaRungs", "is_deep"]

_DEPTHS = (2, 4)
_DEPTHS_OF_SHARES = (4, 8)
"""Of the two shallow steps; shares of the blocks are quarters or eighths."""


def is_deep(facts: StepFacts) -> bool:
    """Whether some rungs of the step are worth an estimate."""
    return facts.depth >= 2 * sum(_DEPTHS)


class CudaRungs:
    """The rungs of one step.

    workers: one, or two where `facts.depth` is to be made use of.
    way: "memsched" or "train_step"; note: what the last plan takes for granted.
    """

    def __init__(
        self, workers: Sequence[CudaWorker], target: str, arguments: Mapping[str, Any], facts: StepFacts, way: str
    ) -> None:
        self._workers, self._target, self._arguments = workers, target, dict(arguments)
        self._facts, self._way = facts, way
        self._can_be_shallow: bool | None = None if len(workers) > 1 else False
        self.note = ""

    def planned(self, setting: Setting) -> Rung:
        """The rung of the whole step.  Raises ValueError where it cannot be planned; one line."""
        self._ask(self._workers[0], setting, 0)
        return self._with_update(self._rung(setting, self._answer(self._workers[0])))

    def estimated(self, setting: Setting) -> Rung:
        """The rung as two shallow steps tell it; planned where they are not half of the work, or do not run."""
        depths = _depths_for(setting)
        if self._can_be_shallow is False or self._facts.depth < 2 * sum(depths):
            return self.planned(setting)
        for worker, depth in zip(self._workers, depths, strict=True):
            self._ask(worker, setting, depth)
        answers = [self._answer_or_error(worker) for worker in self._workers]
        failed = next((answer for answer in answers if isinstance(answer, InputError)), None)
        if failed is not None and self._can_be_shallow is None:
            self._can_be_shallow = False
            return self.planned(setting)
        if failed is not None:
            raise failed
        self._can_be_shallow = True
        shallow, deeper = (
            ShallowRung(depth, self._rung(setting, plan), plan.reports)
            for depth, plan in zip(depths, answers, strict=True)
            if isinstance(plan, StepPlan)
        )
        return self._with_update(at_depth(shallow, deeper, self._facts.depth))

    def _ask(self, worker: CudaWorker, setting: Setting, depth: int) -> None:
        options, arguments = setting.to_options(), self._arguments
        worker.ask_for_plans(
            self._target, ways=(self._way,), options=options, arguments=arguments, code=False, depth=depth
        )

    def _answer(self, worker: CudaWorker) -> StepPlan:
        (plan,) = worker.answer()
        assert isinstance(plan, StepPlan)
        self.note = plan.note
        return plan

    def _answer_or_error(self, worker: CudaWorker) -> StepPlan | InputError:
        """Both workers must have answered before either is asked again."""
        try:
            return self._answer(worker)
        except InputError as error:
            return error

    def _rung(self, setting: Setting, plan: StepPlan) -> Rung:
        if self._way == TRAIN_STEP:
            return rung_of_step(setting, plan.reports[0], plan.moments)
        return rung_of(setting, plan.reports)

    def _with_update(self, rung: Rung) -> Rung:
        """The optimizer's own step behind the graphs, of all layers."""
        return rung if self._way == TRAIN_STEP else with_update(rung, self._facts.held.update)


def _depths_for(setting: Setting) -> tuple[int, int]:
    is_part_of_blocks = any(0 < share < 1 for share in (setting.checkpoint_share, setting.offload_share))
    return _DEPTHS_OF_SHARES if is_part_of_blocks else _DEPTHS

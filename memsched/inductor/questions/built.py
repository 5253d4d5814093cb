"""The plan of a step that a function of the user's builds: on fake tensors, on a device that may not be there.

module:function ──> on fake tensors of the device ──> `plan_fake_step`
                ──> with its own tensors, where it is to be measured, or its model needs values ──> `plan_step`
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch

from memsched.core.sizes import InputError
from memsched.inductor.questions.fake_step import build_step
from memsched.inductor.questions.plan_step import NotOnFakes, Progress, plan_fake_step, plan_step
from memsched.inductor.questions.target import build_target, find_function
from memsched.records.question import StepQuestion
from memsched.records.step import PlannedStep

__all__ = ["plan_target_step"]


def plan_target_step(
    name: str, question: StepQuestion, arguments: Mapping[str, Any], progress: Progress
) -> PlannedStep:
    """Answer `question` about the step that the function `module:function` builds when it is given `arguments`.

    Raises:
        InputError: a device or a function that is not there, a step that cannot be planned; one line.
    """
    progress("building the model" if question.measure else "building the model on fake tensors")
    is_cuda = torch.device(_known(question.device)).type == "cuda"
    if is_cuda and not torch.cuda.is_available() and not question.measure:
        return _plan_cuda(name, question, arguments, progress)
    if not question.measure:
        with contextlib.suppress(NotOnFakes):
            device = torch.device(question.device).type
            return plan_fake_step(build_step(name, arguments, device, progress), question, progress=progress)
    function = find_function(name)
    target = build_target(lambda: function(**arguments), name)
    return plan_step(target.model, target.batch, question, optimizers=target.optimizers, progress=progress)


def _known(device: str) -> str:
    try:
        torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is unknown") from None
    return device


def _plan_cuda(name: str, question: StepQuestion, arguments: Mapping[str, Any], progress: Progress) -> PlannedStep:
    from memsched.inductor.cuda_without_gpu import CudaUnavailable, CudaWorker, WorkerError

    try:
        with CudaWorker() as worker:
            planned: PlannedStep = worker.call(
                "memsched.inductor.cuda_without_gpu.requests:plan_cuda_step",
                name,
                question,
                dict(arguments),
                progress=progress,
            )
            return planned
    except (CudaUnavailable, WorkerError) as error:
        raise InputError(f"device {question.device!r}: {error}") from None

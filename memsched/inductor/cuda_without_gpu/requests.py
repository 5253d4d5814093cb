"""What a worker is asked for, by name: each function answers on a GPU that does not exist, on fake tensors of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch._functorch import config as functorch_config

from memsched.inductor.cuda_without_gpu.capture import plan_target
from memsched.inductor.cuda_without_gpu.plans import StepFacts, StepPlan
from memsched.inductor.cuda_without_gpu.pretend import Gpu, pretend_gpu
from memsched.inductor.cuda_without_gpu.worker import report_progress, show_device
from memsched.inductor.questions.fake_step import build_step
from memsched.inductor.questions.plan_step import plan_fake_step
from memsched.inductor.questions.shallow import depth_of
from memsched.records.question import StepQuestion
from memsched.records.step import PlannedStep

__all__ = ["cuda_step_facts", "plan_cuda_step", "plan_cuda_target"]


def plan_cuda_target(target: str, **how: Any) -> list[StepPlan]:
    """`plan_target`, for CUDA."""
    with pretend_gpu(show_device, Gpu()):
        return plan_target(target, device="cuda", progress=report_progress, **how)


def plan_cuda_step(name: str, question: StepQuestion, arguments: Mapping[str, Any]) -> PlannedStep:
    """What `questions.plan_step` plans of a step."""
    with pretend_gpu(show_device, Gpu()), functorch_config.patch(graphsafe_rng_functionalization=False):
        step = build_step(name, arguments, "cuda", report_progress)
        return plan_fake_step(step, question, progress=report_progress)


def cuda_step_facts(target: str, arguments: Mapping[str, Any]) -> StepFacts:
    """What can be told of a step without planning it."""
    with pretend_gpu(show_device, Gpu()):
        step = build_step(target, arguments, "cuda", report_progress)
        return StepFacts(held=step.held, has_optimizer=bool(step.optimizers), depth=depth_of(step.model))

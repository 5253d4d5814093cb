"""The optimizer's own state as inputs of a compiled step.

`optimizer.state` is the only home of the state: what a step needs is looked up there by name before every step, so
`load_state_dict`, a step of the plain optimizer in between, or another train step on the same optimizer all just work.

    optimizer.state[p]["exp_avg"] ──────────────> input of the graph, written in place
    optimizer.state[p]["step"], group["lr"] ────> scalars ──> one tensor per cohort

A *cohort* is a set of parameters whose scalars are equal: same group, same number of steps taken, same type.  Step
counts are read once and then followed in Python (reading them costs a synchronisation on a GPU); the version counter of
the tensor tells when somebody else has written it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from memsched.inductor.train_step.rules import Rule, Structure, work_dtype

__all__ = ["Cohort", "OptimizerState", "UpdateForm"]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Parameters of one group and one type that have taken the same number of steps."""

    group: int
    taken: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class UpdateForm:
    """All that a compiled update of one parameter depends on: a part of the key under which a step is compiled."""

    structure: Structure
    cohort: int
    names: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]


@dataclass(slots=True)
class _Count:
    """How many steps a parameter has taken.

    tensor: its step count in the state, read at `version`; of an optimizer that keeps none, the buffer made here, which
        tells a first step from a later one.
    """

    taken: int
    tensor: Tensor | None = None
    version: int = -1


class OptimizerState:
    """The state of the parameters that a step updates, in a fixed order."""

    def __init__(
        self, optimizer: Optimizer, rule: Rule, params: Sequence[nn.Parameter], dtype: torch.dtype | None = None
    ) -> None:
        self.optimizer, self.rule, self.params, self.dtype = optimizer, rule, tuple(params), dtype
        group_of = {id(p): at for at, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self._group = [group_of[id(param)] for param in self.params]
        self._counts = [_Count(0) for _ in self.params]
        self._cohorts: tuple[Cohort, ...] = ()

    def prepare(self) -> tuple[UpdateForm, ...]:
        """Create what is missing and look at what is there: the forms of the updates of the next step, one by one."""
        cohorts: dict[Cohort, int] = {}
        forms = []
        for at, param in enumerate(self.params):
            group = self.optimizer.param_groups[self._group[at]]
            state = self._state(at, group)
            cohort = Cohort(self._group[at], self._taken(at, state), param.dtype, param.device)
            names = tuple(name for name in state if name != "step")
            number = cohorts.setdefault(cohort, len(cohorts))
            dtypes = tuple(state[name].dtype for name in names)
            forms.append(UpdateForm(self.rule.structure(group), number, names, dtypes))
        self._cohorts = tuple(cohorts)
        return tuple(forms)

    def tensors(self, forms: Sequence[UpdateForm]) -> list[Tensor]:
        """The state of every parameter in the order of `forms`; the step counts are not among them."""
        states = (self.optimizer.state[param] for param in self.params)
        return [state[name] for state, form in zip(states, forms, strict=True) for name in form.names]

    def scalars(self) -> list[Tensor]:
        """One tensor of numbers for every cohort, for the next step."""
        groups = self.optimizer.param_groups
        return [
            torch.tensor(
                self.rule.scalars(groups[cohort.group], cohort.taken, cohort.dtype), dtype=work_dtype(cohort.dtype)
            ).to(cohort.device, non_blocking=True)
            for cohort in self._cohorts
        ]

    def advance(self) -> None:
        """Count the step that was just taken."""
        for count in self._counts:
            count.taken += 1
        if not self.rule.counts_steps:
            return
        steps = [count.tensor for count in self._counts if count.tensor is not None]
        torch._foreach_add_(steps, 1)
        for count, step in zip(self._counts, steps, strict=True):
            count.version = step._version

    def _state(self, at: int, group: dict[str, Any]) -> dict[str, Tensor]:
        """The state of one parameter, completed with what torch would create at its first step."""
        param, count = self.params[at], self._counts[at]
        state: dict[str, Tensor] = self.optimizer.state.get(param, {})
        if not state or None in state.values():
            state |= self.rule.new_state(param, group, self.dtype or param.dtype)
            if self.rule.counts_steps:
                state["step"] = _new_step(param, group)
            if state:
                self.optimizer.state[param] = state
            self._counts[at] = _Count(0, next(iter(state.values()), None))
        elif not self.rule.counts_steps and next(iter(state.values())) is not count.tensor:
            self._counts[at] = _Count(1, next(iter(state.values())))
        return state

    def _taken(self, at: int, state: dict[str, Tensor]) -> int:
        count = self._counts[at]
        if not self.rule.counts_steps:
            return min(count.taken, 1)  # only "the first or not" matters, and equal numbers keep a cohort together
        step = state["step"]
        if count.tensor is None or step is not count.tensor or step._version != count.version:
            self._counts[at] = count = _Count(int(step), step, step._version)
        return count.taken


def _new_step(param: Tensor, group: dict[str, Any]) -> Tensor:
    """torch/optim/adam.py: on the CPU, unless the optimizer was told to keep everything on the device."""
    on_device = group.get("capturable") or group.get("fused")
    return torch.zeros((), dtype=torch.float32, device=param.device if on_device else "cpu")

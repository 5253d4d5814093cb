"""The optimizer's own state as inputs of a compiled step.

`optimizer.state` is the only home of the state: what a step needs is looked up there by name before every step, so
`load_state_dict`, a step of the plain optimizer in between, or another train step on the same optimizer all just work.

    optimizer.state[p]["exp_avg"] ──────────────> input of the graph, written in place
    optimizer.state[p]["step"], group["lr"] ────> scalars ──> one tensor per cohort

Several optimizers may share the parameters between them (matrices to Muon, the rest to AdamW); their groups are counted
through.  A *cohort* is a set of parameters whose scalars are equal: same group, same number of steps taken, same type.
Step counts are read once and then followed in Python (reading them costs a synchronisation on a GPU); the version
counter of the tensor tells when somebody else has written it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from memsched.inductor.train_step.rules import rule_of
from memsched.inductor.train_step.rules.rule import Rule, Structure, work_dtype

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

    rule: Rule
    structure: Structure
    cohort: int
    names: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]


@dataclass(frozen=True, slots=True)
class _Home:
    """Where a parameter belongs: its optimizer, the rule of that, and its group.

    group: counted over all optimizers; index: in its own, whose groups `load_state_dict` replaces.
    """

    optimizer: Optimizer
    rule: Rule
    group: int
    index: int

    @property
    def options(self) -> dict[str, Any]:
        """The group as it is now."""
        options: dict[str, Any] = self.optimizer.param_groups[self.index]
        return options


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
        self, optimizers: Sequence[Optimizer], params: Sequence[nn.Parameter], dtype: torch.dtype | None = None
    ) -> None:
        self.params, self.dtype = tuple(params), dtype
        homes = _homes(optimizers)
        self._homes = [homes[id(param)] for param in self.params]
        self._counts = [_Count(0) for _ in self.params]
        self._cohorts: tuple[Cohort, ...] = ()

    def prepare(self) -> tuple[UpdateForm, ...]:
        """Create what is missing and look at what is there: the forms of the updates of the next step, one by one."""
        cohorts: dict[Cohort, int] = {}
        forms = []
        for at, param in enumerate(self.params):
            home = self._homes[at]
            state = self._state(at)
            cohort = Cohort(home.group, self._taken(at, state), param.dtype, param.device)
            names = tuple(name for name in state if name != "step")
            number = cohorts.setdefault(cohort, len(cohorts))
            dtypes = tuple(state[name].dtype for name in names)
            forms.append(UpdateForm(home.rule, home.rule.structure(home.options), number, names, dtypes))
        self._cohorts = tuple(cohorts)
        return tuple(forms)

    def tensors(self, forms: Sequence[UpdateForm]) -> list[Tensor]:
        """The state of every parameter in the order of `forms`; the step counts are not among them."""
        states = (home.optimizer.state.get(param, {}) for home, param in zip(self._homes, self.params, strict=True))
        return [state[name] for state, form in zip(states, forms, strict=True) for name in form.names]

    def scalars(self) -> list[Tensor]:
        """One tensor of numbers for every cohort, for the next step."""
        homes = {home.group: home for home in self._homes}
        return [self._numbers(homes[cohort.group], cohort) for cohort in self._cohorts]

    @staticmethod
    def _numbers(home: _Home, cohort: Cohort) -> Tensor:
        numbers = home.rule.scalars(home.options, cohort.taken, cohort.dtype)
        return torch.tensor(numbers, dtype=work_dtype(cohort.dtype)).to(cohort.device, non_blocking=True)

    def advance(self) -> None:
        """Count the step that was just taken."""
        for count in self._counts:
            count.taken += 1
        counted = [
            (count, count.tensor)
            for home, count in zip(self._homes, self._counts, strict=True)
            if home.rule.counts_steps and count.tensor is not None
        ]
        if counted:
            torch._foreach_add_([step for _, step in counted], 1)
        for count, step in counted:
            count.version = step._version

    def _state(self, at: int) -> dict[str, Tensor]:
        """The state of one parameter, completed with what torch would create at its first step."""
        param, count, home = self.params[at], self._counts[at], self._homes[at]
        state: dict[str, Tensor] = home.optimizer.state.get(param, {})
        if not state or None in state.values():
            state |= home.rule.new_state(param, home.options, self.dtype or param.dtype)
            if home.rule.counts_steps:
                state["step"] = step = _new_step(param, home.options)
                self._counts[at] = _Count(0, step, step._version)  # known, and on fake tensors it cannot be read
            else:
                self._counts[at] = _Count(0, next(iter(state.values()), None))
            if state:
                home.optimizer.state[param] = state
        elif not home.rule.counts_steps and next(iter(state.values())) is not count.tensor:
            self._counts[at] = _Count(1, next(iter(state.values())))
        return state

    def _taken(self, at: int, state: dict[str, Tensor]) -> int:
        count = self._counts[at]
        if not self._homes[at].rule.counts_steps:
            return min(count.taken, 1)  # only "the first or not" matters, and equal numbers keep a cohort together
        step = state["step"]
        if count.tensor is None or step is not count.tensor or step._version != count.version:
            self._counts[at] = count = _Count(int(step), step, step._version)
        return count.taken


def _homes(optimizers: Sequence[Optimizer]) -> dict[int, _Home]:
    """By the identity of a parameter; the rules of the optimizers are known (`check_optimizers`)."""
    homes: dict[int, _Home] = {}
    number = 0
    for optimizer in optimizers:
        rule = rule_of(optimizer)
        assert rule is not None, type(optimizer)
        for index, group in enumerate(optimizer.param_groups):
            homes |= {id(param): _Home(optimizer, rule, number, index) for param in group["params"]}
            number += 1
    return homes


def _new_step(param: Tensor, group: dict[str, Any]) -> Tensor:
    """torch/optim/adam.py: on the CPU, unless the optimizer was told to keep everything on the device."""
    on_device = group.get("capturable") or group.get("fused")
    return torch.zeros((), dtype=torch.float32, device=param.device if on_device else "cpu")

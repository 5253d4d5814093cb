"""The written-out updates against torch's own optimizers: same parameters, same state, step after step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, Muon, NAdam, Optimizer, RAdam, RMSprop

from memsched.inductor.train_step.rules.rule import work_dtype
from memsched.inductor.train_step.state import OptimizerState

Make = Callable[[Any], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "sgd decay": lambda p: SGD(p, lr=0.1, weight_decay=0.1, maximize=True),
    "sgd momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "sgd dampened": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.1),
    "sgd nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.01),
    "adam decay": lambda p: Adam(p, lr=0.01, weight_decay=0.1, maximize=True),
    "adam amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True, betas=(0.5, 0.6)),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw amsgrad": lambda p: AdamW(p, lr=0.01, amsgrad=True),
    "nadam": lambda p: NAdam(p, lr=0.01),
    "nadam decay": lambda p: NAdam(p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    "radam": lambda p: RAdam(p, lr=0.01, betas=(0.9, 0.99)),
    "radam decay": lambda p: RAdam(p, lr=0.01, weight_decay=0.1, betas=(0.5, 0.6), decoupled_weight_decay=True),
    "rmsprop": lambda p: RMSprop(p, lr=0.01),
    "rmsprop momentum": lambda p: RMSprop(p, lr=0.01, momentum=0.9, centered=True, weight_decay=0.1, maximize=True),
    "adagrad": lambda p: Adagrad(p, lr=0.1),
    "adagrad decay": lambda p: Adagrad(p, lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5),
    "adafactor": lambda p: Adafactor(p, lr=0.1),
    "adafactor eps": lambda p: Adafactor(p, lr=0.1, weight_decay=0.1, eps=(1e-6, 1e-2), d=1.5, maximize=True),
}

SHAPES = ((5, 7), (7,), (), (2, 3, 4))


def update_by_rule(state: OptimizerState, gradients: list[Tensor], *optimizers: Optimizer) -> None:
    """One step with the rule, written back as a compiled step does."""
    forms, numbers = state.prepare(), state.scalars()
    for param, gradient, form in zip(state.params, gradients, forms, strict=True):
        kept = next((one.state[param] for one in optimizers if param in one.state), {})
        work = work_dtype(param.dtype)
        named = {name: kept[name].to(work) for name in form.names}
        scalars = list(numbers[form.cohort].unbind())
        value, new = form.rule.update(form.structure, param.detach().to(work), gradient.to(work), named, scalars)
        param.data.copy_(value)
        for name in form.names:
            kept[name].copy_(new[name])
    state.advance()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_as_torch(name: str, dtype: torch.dtype) -> None:
    """Twelve steps on the same random gradients, the learning rate changing on the way."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]
    theirs = [nn.Parameter(param.detach().clone()) for param in ours]
    optimizer, reference = OPTIMIZERS[name](ours), OPTIMIZERS[name](theirs)
    state = OptimizerState([optimizer], ours)
    for number in range(12):
        gradients = [torch.randn_like(param) for param in ours]
        for group in (*optimizer.param_groups, *reference.param_groups):
            group["lr"] = 0.1 / (1 + number)
        update_by_rule(state, gradients, optimizer)
        for param, gradient in zip(theirs, gradients, strict=True):
            param.grad = gradient.clone()
        reference.step()
    torch.testing.assert_close(ours, theirs)
    assert optimizer.state_dict()["state"].keys() == reference.state_dict()["state"].keys()
    torch.testing.assert_close(optimizer.state_dict()["state"], reference.state_dict()["state"])


@pytest.mark.parametrize("options", [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5)])
def test_muon_moves_matrices_as_torch_does(shape: tuple[int, int], options: dict[str, Any]) -> None:
    """Newton and Schulz's iteration in bfloat16: a thousandth, not the last bit."""
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.ones(shape))] for _ in range(2))
    optimizer, reference = (Muon(params, lr=0.1, **options) for params in (ours, theirs))
    state = OptimizerState([optimizer], ours)
    for _ in range(6):
        gradient = torch.randn(shape)
        update_by_rule(state, [gradient], optimizer)
        theirs[0].grad = gradient.clone()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(optimizer.state_dict()["state"], reference.state_dict()["state"])


@pytest.mark.parametrize("name", ["sgd dampened", "adamw", "adafactor", "nadam", "adagrad"])
def test_taking_turns_with_torch(name: str) -> None:
    """Rule, torch, rule, torch, ... on one optimizer: neither notices that the other was there."""
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))] for _ in range(2))
    optimizer, reference = OPTIMIZERS[name](ours), OPTIMIZERS[name](theirs)
    state = OptimizerState([optimizer], ours)
    for number in range(6):
        gradients = [torch.randn_like(param) for param in ours]
        for params in (ours, theirs):
            for param, gradient in zip(params, gradients, strict=True):
                param.grad = gradient.clone()
        reference.step()
        if number % 2:
            optimizer.step()
        else:
            update_by_rule(state, gradients, optimizer)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(optimizer.state_dict()["state"], reference.state_dict()["state"])


def test_a_cohort_is_what_shares_its_numbers() -> None:
    """Two groups, and a parameter that joined later: three cohorts, so three sets of scalars."""
    first, second, late = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = Adam([{"params": [first, late]}, {"params": [second], "lr": 0.5}], lr=0.1)
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    state = OptimizerState([optimizer], [first, second, late])
    assert [form.cohort for form in state.prepare()] == [0, 1, 2]
    assert [float(scalars[0]) for scalars in state.scalars()] == pytest.approx(
        [-0.1 / (1 - 0.9**2), -0.5 / (1 - 0.9**2), -0.1 / (1 - 0.9)]
    )


def test_the_dtype_of_new_state_can_be_chosen() -> None:
    """bfloat16 parameters with float32 state, which torch itself cannot create."""
    param = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = AdamW([param])
    (form,) = OptimizerState([optimizer], [param], torch.float32).prepare()
    assert form.dtypes == (torch.float32, torch.float32)
    assert optimizer.state[param]["exp_avg"].dtype == torch.float32

"""What an optimizer's own step allocates, found on tensors without memory, against the allocator.

weights, states, gradients   held
temporaries  ──┐    ┌──      AdamW, one tensor after another: those of the largest; foreach: of all at once
               └────┘
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, AdamW, NAdam, Optimizer, RMSprop

from memsched.inductor.bytes.measure import measure_peak
from memsched.inductor.optimizer_step import optimizer_step

_SCALARS = 512
"""Bytes of tensors of one element, which "meta" has elsewhere or not at all."""


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(*size)) for size in ((64, 96), (128, 32), (96,), (40, 40))]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda p, foreach: SGD(p, lr=0.1, foreach=foreach),
        lambda p, foreach: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=foreach),
        lambda p, foreach: AdamW(p, foreach=foreach),
        lambda p, foreach: AdamW(p, amsgrad=True, foreach=foreach),
        lambda p, foreach: NAdam(p, foreach=foreach),
        lambda p, foreach: RMSprop(p, momentum=0.5, foreach=foreach),
        lambda p, foreach: Adagrad(p, foreach=foreach),
    ],
)
def test_temporaries_are_what_the_allocator_sees(make: Callable[..., Optimizer], foreach: bool) -> None:
    parameters = weights()
    optimizer = make(parameters, foreach=foreach)
    found = optimizer_step([optimizer], parameters)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    measured = measure_peak(optimizer.step)
    assert found is not None
    assert abs(found.temporaries - measured) <= _SCALARS
    assert found.gradients == sum(parameter.nbytes for parameter in parameters)


class _OnGpu:
    """All that is asked of a parameter beside those of the optimizer: where it lies."""

    device = torch.device("cuda")


def temporaries_of(optimizer: Optimizer, parameters: Any) -> int:
    step = optimizer_step([optimizer], parameters)
    assert step is not None
    return step.temporaries


def test_foreach_is_what_pytorch_chooses_on_a_gpu_and_fused_steps_allocate_nothing() -> None:
    parameters = [nn.Parameter(torch.randn(64, 64)) for _ in range(8)]
    all_of_them = sum(parameter.nbytes for parameter in parameters)
    assert temporaries_of(AdamW(parameters), [_OnGpu()]) >= all_of_them
    assert temporaries_of(AdamW(parameters, foreach=False), [_OnGpu()]) < all_of_them / 2
    assert temporaries_of(AdamW(parameters), parameters) < all_of_them / 2
    assert temporaries_of(AdamW(parameters, fused=True), [_OnGpu()]) == 0


def test_the_optimizer_is_left_as_it_was() -> None:
    parameters = weights()
    optimizer = AdamW(parameters)
    before = [parameter.detach().clone() for parameter in parameters]
    assert optimizer_step([optimizer], parameters) is not None
    assert not optimizer.state and all(parameter.grad is None for parameter in parameters)
    assert all(one is other for one, other in zip(optimizer.param_groups[0]["params"], parameters, strict=True))
    assert all(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))


def test_frozen_parameters_have_neither_gradients_nor_state() -> None:
    """An optimizer is often given all of them, adapters and the frozen weights beside."""
    trained, frozen = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(64, 64), requires_grad=False)
    for parameters in ([trained], [trained, frozen]):
        step = optimizer_step([AdamW(parameters, foreach=True)], [trained, frozen])
        assert step is not None
        assert step.gradients == trained.nbytes and step.state <= 2 * trained.nbytes + _SCALARS
        assert step.temporaries < frozen.nbytes


def test_an_optimizer_that_asks_for_values_is_not_known() -> None:
    class Asks(SGD):
        def step(self, closure: Any = None) -> Any:
            return self.param_groups[0]["params"][0].sum().item()

    parameters = weights()
    assert optimizer_step([Asks(parameters, lr=0.1)], parameters) is None

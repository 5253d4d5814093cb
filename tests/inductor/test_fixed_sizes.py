"""A loss in chunks stays in chunks when the batch has another size, for the first sizes.

batch    8      5      8          3, 4       7            2
program  first  new    the first  new, new   open sizes   the one with open sizes
loss     chunks chunks            chunks     whole        whole
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import memsched
from bench.models.language import GPT
from bench.models.policies import Policy
from memsched.inductor import fixed_sizes
from memsched.inductor.fixed_sizes import FIXED_SIZES

CHUNKED = {"chunk_loss": 4}


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    torch._dynamo.reset()
    memsched.reset()
    fixed_sizes._warn_once.cache_clear()
    yield
    torch._dynamo.reset()


def model_and_batch(rows: int = 8) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, (tokens,) = GPT(1, 16, rows, 8, vocabulary=256).build(Policy())
    return model, tokens


def chunks_of_step(compiled: Any, tokens: torch.Tensor) -> int | None:
    """In how many chunks the program that this batch compiled has its loss; None where nothing was compiled."""
    memsched.reset()
    compiled(tokens).backward()
    found = memsched.reports()
    return max(report.rewrites.get("chunk_loss", 0) for report in found) if found else None


@pytest.mark.plans
def test_the_first_sizes_have_programs_of_their_own(no_kernels: None, caplog: pytest.LogCaptureFixture) -> None:
    model, tokens = model_and_batch()
    compiled = torch.compile(model, backend="memsched", options=CHUNKED)
    with caplog.at_level(logging.WARNING, logger="memsched"):
        found = [chunks_of_step(compiled, tokens[:rows]) for rows in (8, 5, 8, 3, 4)]
        assert found == [4, 4, None, 4, 4]
        assert sum(chunks is not None for chunks in found) == FIXED_SIZES
        assert not caplog.records
        assert [chunks_of_step(compiled, tokens[:rows]) for rows in (7, 2)] == [0, None]
    (warning,) = caplog.records
    assert "dynamic=False" in warning.message and "pad to at most 4 lengths" in warning.message


@pytest.mark.plans
@pytest.mark.parametrize("how", ["dynamic", "marked"])
def test_sizes_that_the_user_wants_open_stay_open(how: str, no_kernels: None, caplog: pytest.LogCaptureFixture) -> None:
    model, tokens = model_and_batch()
    if how == "marked":
        torch._dynamo.mark_dynamic(tokens, 0)
    compiled = torch.compile(model, backend="memsched", options=CHUNKED, dynamic=True if how == "dynamic" else None)
    with caplog.at_level(logging.WARNING, logger="memsched"):
        assert chunks_of_step(compiled, tokens) == 0
    (warning,) = caplog.records
    assert "any size share one program" in warning.message


@pytest.mark.plans
def test_a_number_that_changes_every_step_fixes_nothing(no_kernels: None) -> None:
    """Were it fixed, four steps would use up the programs that batches may have."""
    model, tokens = model_and_batch()

    def step(tokens: torch.Tensor, number: int) -> torch.Tensor:
        return model(tokens) * number

    compiled = torch.compile(step, backend="memsched", options=CHUNKED)
    memsched.reset()
    for number in range(2, 9):
        compiled(tokens, number).backward()
    assert sum(report.name.startswith("forward") for report in memsched.reports()) == 2


@pytest.mark.plans
def test_without_chunks_dynamic_shapes_are_dynamo_s(no_kernels: None) -> None:
    model, tokens = model_and_batch()
    compiled = torch.compile(model, backend="memsched")
    programs = [chunks_of_step(compiled, tokens[:rows]) for rows in (8, 5, 3)]
    assert programs == [0, 0, None]


@pytest.mark.compile
def test_losses_and_gradients_are_eager_s_at_every_size() -> None:
    model, tokens = model_and_batch()
    compiled = torch.compile(model, backend="memsched", options=CHUNKED)
    for rows in (8, 5):
        expected = model(tokens[:rows])
        expected.backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        loss = compiled(tokens[:rows])
        loss.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close([parameter.grad for parameter in model.parameters()], gradients)
        model.zero_grad()

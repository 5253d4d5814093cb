"""The gradient of an embedding in half precision, a table of float32 that is rounded, made by columns.

rows ──> table of float32 ──> gradient          three times the gradient at once
rows ──> columns ──> gradient[:, columns]       one and an eighth
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache

import memsched
from memsched.inductor.bytes.measure import trace_memory
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions

WORDS, TOKENS = 4096, 64


class Words(nn.Module):
    """An embedding, a layer, and a head over it where it is tied."""

    def __init__(self, width: int = 128, tied: bool = False, padding: int | None = None, dtype: Any = torch.bfloat16):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width, padding_idx=padding)
        self.layer = nn.Linear(width, width)
        self.tied = tied
        self.to(dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.layer(self.embedding(tokens)).relu()
        if self.tied:
            return (x @ self.embedding.weight.t()).float().logsumexp(-1).mean()
        return x.float().square().mean()


def batch() -> Tensor:
    """Some words many times: an order of sums that rounds otherwise would be seen."""
    return torch.randint(WORDS // 64, (4, TOKENS // 4), generator=torch.Generator().manual_seed(0))


def gradients(model: nn.Module, backend: str, **options: Any) -> tuple[list[Tensor], int]:
    """Of all parameters, and the bytes that a backward needs."""
    torch._dynamo.reset()
    tokens = batch()
    compiled = torch.compile(model, backend=backend, options=options or None)
    for _ in range(2):
        model.zero_grad()
        loss = compiled(tokens)
        peak = trace_memory(loss.backward).peak
    return [one.grad.clone() for one in model.parameters() if one.grad is not None], peak


def rewritten(model: nn.Module) -> int:
    """How many tables are made by columns."""
    reports = plan_only(model, (batch(),), BackendOptions(strict=True))
    return sum(report.rewrites.get("split_embedding_gradient", 0) for report in reports)


@pytest.mark.compile
@pytest.mark.parametrize(
    "how",
    [{"padding": 3, "width": 136}, {"width": 100, "dtype": torch.float16}],
    ids=["padding, a last part", "float16, narrow columns"],
)
def test_every_bit_is_the_same_and_the_peak_a_third_above_the_gradient(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Words(**how)
    with fresh_cache():
        stock, stock_peak = gradients(model, "inductor")
        ours, peak = gradients(model, "memsched", strict=True)
    assert all(torch.equal(one, other) for one, other in zip(ours, stock, strict=True))
    result = model.embedding.weight.nbytes
    others = 2 * sum(one.nbytes for one in model.layer.parameters()) + 8 * TOKENS * model.embedding.embedding_dim
    assert peak - others <= 1.3 * result < 2.9 * result <= stock_peak


@pytest.mark.compile
def test_of_a_tied_head_the_columns_are_added_where_its_gradient_lies() -> None:
    """Rounded before they are added, as eager does it, where Inductor adds inside of the product."""
    torch.manual_seed(0)
    model = Words(tied=True)
    logits = 4 * TOKENS * WORDS
    with fresh_cache():
        stock, stock_peak = gradients(model, "inductor")
        ours, peak = gradients(model, "memsched", strict=True)
    for one, other in zip(ours, stock, strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=2e-2, atol=1e-4)
    result = model.embedding.weight.nbytes
    assert peak <= 1.3 * result + logits < 2.9 * result < stock_peak
    exact = Words(tied=True, dtype=torch.float64)
    exact.load_state_dict(model.state_dict())
    exact(batch()).backward()
    wanted = exact.embedding.weight.grad
    assert wanted is not None
    of_stock, of_ours = (float((one[0].double() - wanted).norm()) for one in (stock, ours))
    assert of_ours <= 1.1 * of_stock


@pytest.mark.plans
@pytest.mark.parametrize(
    ("how", "tables"),
    [({}, 1), ({"tied": True}, 1), ({"dtype": torch.float32}, 0), ({"width": 8}, 0)],
    ids=["half", "tied", "nothing is rounded", "fewer columns than parts"],
)
def test_only_tables_that_are_rounded_and_wide_enough(how: dict[str, Any], tables: int) -> None:
    assert rewritten(Words(**how)) == tables


@pytest.mark.plans
def test_a_table_that_is_not_at_the_peak_stays_whole() -> None:
    """More kernels for nothing: the activations of a wide layer are what the step needs."""

    class Wide(Words):
        def forward(self, tokens: Tensor) -> Tensor:
            x = self.layer(self.embedding(tokens))
            wide = x.unsqueeze(1) * torch.ones(64, 1, 1, dtype=x.dtype)
            return (wide @ wide.transpose(-1, -2)).sin().exp().float().square().mean()

    model = Wide()
    model.embedding = nn.Embedding(64, 128).to(torch.bfloat16)
    assert rewritten(model) == 0


@pytest.mark.plans
def test_a_whole_training_step_has_it_too() -> None:
    torch.manual_seed(0)
    memsched.reset()
    model = Words()
    memsched.train_step(model, torch.optim.SGD(model.parameters(), 0.1))(batch())
    (report,) = memsched.reports()
    assert report.rewrites["split_embedding_gradient"] == 1
    assert report.graph is not None
    assert report.peak - report.graph.start_bytes <= 1.3 * model.embedding.weight.nbytes + 2**16

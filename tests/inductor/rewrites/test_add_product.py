"""The gradient of a head whose loss comes in chunks: one tensor of its size, to which every chunk adds.

chunk 1 ──> product ══════ total
chunk 2 ──> operands ──+══ total        and not: total 1, total 2
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn
from torch._inductor.utils import fresh_cache
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import memsched
from memsched.inductor.bytes.measure import trace_memory
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions
from memsched.inductor.rewrites.add_product import add_product, added_in_place

WORDS, WIDTH, TOKENS = 4096, 64, 128
HEAD = WORDS * WIDTH * 4
LOGITS = TOKENS * WORDS * 4


class Head(nn.Module):
    """One layer and a large vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self.head(self.layer(x).relu()), targets)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(TOKENS, WIDTH, generator=generator), torch.randint(WORDS, (TOKENS,), generator=generator)


def test_the_operator_adds_in_place_and_counts_its_flops() -> None:
    total, first, second = torch.randn(5, 3), torch.randn(7, 5), torch.randn(7, 3)
    wanted, place = total + first.t() @ second, total.data_ptr()
    with FlopCounterMode(display=False) as counter:
        add_product(total, first, second)
    torch.testing.assert_close(total, wanted)
    assert total.data_ptr() == place
    assert counter.get_total_flops() == 2 * 7 * 5 * 3


def test_the_nodes_are_a_function_of_what_they_read() -> None:
    """As a traced graph has it: run as it is, it leaves what it was given alone."""
    graph = fx.Graph()
    total, first, second = (graph.placeholder(name) for name in ("total", "first", "second"))
    values = torch.randn(5, 3), torch.randn(7, 5), torch.randn(7, 3)
    for node, value in zip((total, first, second), values, strict=True):
        node.meta["val"] = value
    _, added = added_in_place(graph, total, first, second)
    graph.output(added)
    before = values[0].clone()
    torch.testing.assert_close(
        fx.Interpreter(fx.GraphModule(nn.Module(), graph)).run(*values), before + values[1].t() @ values[2]
    )
    assert torch.equal(values[0], before)


@pytest.mark.plans
def test_the_plan_has_the_gradient_of_the_head_once() -> None:
    """With 16 chunks: that gradient, and a few times a chunk of the logits; twice the gradient would not fit."""
    torch.manual_seed(0)
    reports = plan_only(Head(), batch(), BackendOptions(strict=True, chunk_loss=16))
    for report in reports:
        assert report.graph is not None
        assert report.peak - report.graph.start_bytes <= HEAD + 4 * LOGITS / 16
    assert 4 * LOGITS / 16 < HEAD


@pytest.mark.plans
def test_what_is_saved_is_the_sum_and_not_what_its_last_product_reads() -> None:
    """The partitioner weighs a result double that is only inlined behind the cut; the last product would come there."""
    torch.manual_seed(0)
    _, backward = plan_only(Head(), batch(), BackendOptions(strict=True, chunk_loss=16))
    assert backward.graph is not None
    assert HEAD <= backward.graph.start_bytes < HEAD + LOGITS / 16
    assert backward.peak < HEAD + LOGITS / 16


@pytest.mark.compile
def test_measured_it_is_there_once(no_kernels: None) -> None:
    del no_kernels
    torch.manual_seed(0)
    model, given = Head(), batch()
    compiled = torch.compile(model, backend="memsched", options={"strict": True, "chunk_loss": 8})
    peaks = []

    def step() -> None:
        held: list[Tensor] = []
        peaks.append(trace_memory(lambda: held.append(compiled(*given))).peak)
        peaks.append(trace_memory(held.pop().backward).peak)

    with fresh_cache():
        for _ in range(2):
            model.zero_grad()
            step()
    assert max(peaks[-2:]) <= HEAD + 4 * LOGITS / 16


class Tied(Head):
    """The head's weight is the embedding's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return super().forward(self.embedding(tokens), targets)


@pytest.mark.compile
def test_a_step_trains_as_without_chunks() -> None:
    """The head's gradient is added up over chunks, then the embedding's to it."""
    torch.manual_seed(0)
    model = Tied()
    reference = copy.deepcopy(model)
    _, targets = batch()
    given = (targets.flip(0), targets)
    optimizers = [torch.optim.SGD(one.parameters(), 1.0) for one in (model, reference)]
    step = memsched.train_step(model, optimizers[0], options={"strict": True, "chunk_loss": 4})
    for _ in range(3):
        loss = reference(*given)
        loss.backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
        torch.testing.assert_close(step(*given), loss.detach())
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

"""What picks or flattens rows goes before a projection; the numbers stay, and the logits are smaller.

    x ──> linear ──> [:, :-1] ──> loss      becomes      x ──> [:, :-1] ──> linear ──> loss

Where another row counts, or anything else reads the logits, it stays.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import memsched
from memsched.inductor.bytes.measure import measure_peak
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.rewrites.rows_before_projection import rows_before_projection
from memsched.levers.ladder import Ladder

WORDS, WIDTH = 40, 8

Read = Callable[[Tensor], Tensor]

MOVED: dict[str, Read] = {
    "all but the last token": lambda logits: logits[:, :-1].flatten(0, 1),
    "with an ellipsis": lambda logits: logits[..., :-1, :].contiguous().view(-1, WORDS),
    "the last token": lambda logits: logits[:, -1],
    "one batch": lambda logits: logits[0],
    "every second token": lambda logits: logits[:, ::2],
    "cast": lambda logits: logits.float()[:, :-1],
    "one list of tokens": lambda logits: logits.float().view(-1, WORDS),
    "flattened": lambda logits: (logits * 0.5).flatten(end_dim=-2),
    "log-probabilities": lambda logits: functional.log_softmax(logits, dim=-1).reshape(-1, WORDS),
    "with a cap": lambda logits: (torch.tanh(logits / 30.0) * 30.0)[:, :-1],
}
LEFT: dict[str, Read] = {
    "some of the words": lambda logits: logits[..., :-1],
    "some of the words, by number": lambda logits: logits[..., 0],
    "all tokens": lambda logits: logits[:, 0:],
    "read twice": lambda logits: logits[:, :-1] + logits.sum(),
    "chosen by a tensor": lambda logits: logits[:, torch.tensor([0, 1])],
    "changed in place": lambda logits: logits.mul_(2)[:, :-1],
    "a sum over all tokens before": lambda logits: logits.softmax(1)[:, :-1],
    "rows and words in one": lambda logits: logits.flatten(1),
    "rows of another length": lambda logits: logits.view(-1, WORDS // 2),
    "softmax over tokens, as a list": lambda logits: logits.softmax(1).view(-1, WORDS),
    "one row": lambda logits: logits[0, 0],
}


class Head(nn.Module):
    """A projection, and what is read of it."""

    def __init__(self, read: Read) -> None:
        super().__init__()
        self.read = read
        self.head = nn.Linear(WIDTH, WORDS).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.head(x * 2))


class Moving:
    """A backend that moves slices in what Dynamo traced, and runs the rest eagerly."""

    def __init__(self) -> None:
        self.moved: list[fx.Node] = []
        self.rows: list[int] = []
        self.calls = 0

    def __call__(self, gm: fx.GraphModule, _: list[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        self.calls += 1
        self.moved = rows_before_projection(gm.graph)
        gm.graph.lint()
        gm.recompile()
        projection = next(node for node in gm.graph.nodes if "linear" in str(node.target))
        self.rows = list(projection.meta["example_value"].shape)
        return gm.forward


@pytest.mark.parametrize("read", MOVED.values(), ids=MOVED)
def test_rows_move_and_the_numbers_stay(read: Read) -> None:
    """Outputs and gradients equal those of the model; the projection computes no row that nobody reads."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, x, moving = Head(read), torch.randn(3, 6, WIDTH, dtype=torch.double, requires_grad=True), Moving()
    results = [run(x) for run in (model, torch.compile(model, backend=moving))]
    assert moving.moved
    assert torch.Size(moving.rows).numel() == results[0].numel()
    weight = torch.randn_like(results[0])
    wanted, found = ((one, *torch.autograd.grad((one * weight).sum(), [x, *model.parameters()])) for one in results)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_few_words_of_wide_rows_stay() -> None:
    """Rows of 64, projected to 4: to copy 5 of 6 tokens costs more than the projection gives; one token of 48 less."""
    narrow = nn.Linear(64, 4)
    for tokens, read, moves in ((6, slice(-1), False), (48, 0, True)):
        torch._dynamo.reset()
        moving = Moving()
        torch.compile(lambda x, at=read: narrow(x)[:, at], backend=moving)(torch.randn(3, tokens, 64))
        assert bool(moving.moved) is moves


def test_rows_move_where_their_number_is_not_known() -> None:
    """One program for every length: the sizes are symbols, and moving asks nothing about them."""
    torch._dynamo.reset()
    model, moving = Head(MOVED["all but the last token"]), Moving()
    compiled = torch.compile(model, backend=moving)
    for tokens in (6, 5, 9):
        x = torch.randn(3, tokens, WIDTH, dtype=torch.double)
        torch._dynamo.mark_dynamic(x, 1)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-9, atol=1e-9)
    assert moving.calls == 1
    assert moving.moved


@pytest.mark.parametrize("read", LEFT.values(), ids=LEFT)
def test_where_other_rows_count_it_stays(read: Read) -> None:
    torch._dynamo.reset()
    moving = Moving()
    torch.compile(Head(read), backend=moving)(torch.randn(3, 6, WIDTH, dtype=torch.double))
    assert moving.rows == [3, 6, WORDS]
    assert not moving.moved


class Language(nn.Module):
    """Next words: as large a vocabulary, beside the width, as real models have."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(512, 16), nn.Linear(16, 16), nn.Linear(16, 512, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.head(functional.gelu(self.layer(self.embedding(tokens))))
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def test_a_language_model_needs_its_logits_once_less(no_kernels: None) -> None:
    """Stock pads the gradient of the slice to that of all logits; planned and measured, the step needs far less."""
    batch = (torch.randint(512, (2, 64)),)
    stock, planned = plan_only(Language(), batch, stock=True), plan_only(Language(), batch)
    assert any("rows_before_projection" in report.rewrites for report in planned)
    most = max(report.peak for report in planned)
    assert most < 0.75 * max(report.peak for report in stock)
    assert measured("memsched", batch) <= most * 1.01 < measured("inductor", batch)


def measured(backend: str, batch: tuple[Tensor, ...]) -> int:
    model = Language()
    compiled = torch.compile(model, backend=backend)

    def step() -> None:
        compiled(*batch).backward()
        model.zero_grad()

    step()
    return measure_peak(step)


def test_the_loss_of_a_shifted_model_is_computed_in_chunks() -> None:
    """Inductor's chunker does not look through a slice: before, no chunk of such a loss was ever made."""
    ladder: Ladder = memsched.fit(Language(), torch.randint(512, (2, 64)), levers=["chunk_loss"]).ladder
    assert ladder.chosen.setting.chunks
    assert ladder.chosen.peak < 0.8 * ladder.rungs[0].peak

"""The training step as one graph against the three calls that it replaces.

What the graph computes is tested with `interpreted`: the graph of the step itself runs, operator by operator, so a test
takes no C++ compiler and sees the same writes.  Tests marked `compile` run the compiled code, `plans` only lower it.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import memsched
from memsched.core.sizes import InputError
from memsched.inductor import backend
from memsched.inductor.bytes.measure import measure_peak
from memsched.inductor.rewrites.rules import Rule
from memsched.inductor.train_step import program as train_step_program
from memsched.inductor.train_step import step as module
from memsched.inductor.train_step.compile import CompiledStep, Plan
from memsched.inductor.train_step.failure import StepInterrupted
from memsched.inductor.train_step.options import StepOptions
from memsched.inductor.train_step.report import StepNotes
from memsched.inductor.train_step.stock import StockStep
from memsched.levers.moments import Moment
from memsched.records.published import counters
from tests.inductor.train_step.test_rules import OPTIMIZERS

STRICT = {"strict": True}


class Tiny(nn.Module):
    """A tied embedding, a checkpointed layer, BatchNorm statistics, a frozen and an unused parameter.

    No bias in front of BatchNorm: its gradient is rounding and nothing else, which Adam would make as large as any.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 8, bias=False))
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.unused = nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + checkpoint(self.layer, x, use_reentrant=False)
        x = self.norm(x.flatten(0, 1)) * self.frozen
        return F.cross_entropy(self.head(x), tokens.roll(1, 1).flatten())


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(seed))


def tiny(**options: Any) -> Tiny:
    torch.manual_seed(0)
    return Tiny(**options)


def plain_step(model: nn.Module, optimizer: Optimizer, *batch: Any, clip: float | None = None) -> Tensor:
    """What a train step replaces."""
    loss: Tensor = model(*batch)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def assert_same(model: nn.Module, reference: nn.Module) -> None:
    torch.testing.assert_close(dict(model.state_dict()), dict(reference.state_dict()))


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Steps run the graph that would be compiled; the list has every graph."""
    graphs: list[Any] = []

    def interpret(
        step: Any, fake_mode: Any, options: Any, inductor: Mapping[str, Any], names: Sequence[str]
    ) -> CompiledStep:
        graphs.append(step)
        plan = Plan(StepNotes(step.update_nodes))
        return CompiledStep(lambda inputs: step.module(*inputs), plan, {})

    torch._dynamo.reset()
    monkeypatch.setattr(train_step_program, "compile_step", interpret)
    yield graphs


# ---- numerics


@pytest.mark.parametrize("name", ["sgd momentum", "sgd nesterov", "adam", "adamw amsgrad", "adafactor"])
def test_loss_curve_of_every_optimizer(name: str, interpreted: list[Any]) -> None:
    """200 steps on changing batches: the losses, and in the end the parameters, of the plain loop; one graph."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    reference = copy.deepcopy(model)
    optimizer, plain = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](reference.parameters())
    for group in (*optimizer.param_groups, *plain.param_groups):
        group["lr"] = 0.01
    step = memsched.train_step(model, optimizer, loss_fn=scalar_loss, options=STRICT)
    inputs = torch.randn(7, 16, 4)
    batches = [(x, x[:, :1] * x[:, 1:2]) for x in inputs]
    losses = []
    for at in range(200):
        x, y = batches[at % 7]
        expected = scalar_loss(reference(x), y)
        expected.backward()
        plain.step()
        plain.zero_grad()
        losses.append((step(x, y).item(), expected.item()))
    ours, theirs = map(torch.tensor, zip(*losses, strict=True))
    assert theirs[-7:].mean() < 0.95 * theirs[:7].mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dict(model.state_dict()), dict(reference.state_dict()), rtol=1e-3, atol=1e-4)
    assert len(interpreted) == 1


def test_groups_and_schedulers_compile_once(interpreted: list[Any]) -> None:
    """OneCycleLR moves learning rate and momentum of two groups at every step."""
    models = tiny(), tiny()
    optimizers = [
        SGD([{"params": m.embedding.parameters()}, {"params": [*m.layer.parameters(), *m.norm.parameters(), m.head.bias,
             *m.unused.parameters()], "weight_decay": 0.1}], lr=0.1, momentum=0.9)
        for m in models
    ]  # fmt: skip
    schedulers = [OneCycleLR(optimizer, max_lr=0.5, total_steps=10) for optimizer in optimizers]
    step = memsched.train_step(models[0], optimizers[0], options=STRICT)
    for at in range(8):
        step(tokens(at))
        plain_step(models[1], optimizers[1], tokens(at))
        for scheduler in schedulers:
            scheduler.step()
    assert_same(*models)
    assert len(interpreted) == 1


@pytest.mark.parametrize("name", ["sgd dampened", "adamw amsgrad", "adafactor"])
def test_resumed_run_equals_uninterrupted(name: str, interpreted: list[Any], tmp_path: Any) -> None:
    """Plain, then a train step from its checkpoint, then plain from that one's: equal to plain all the way."""
    reference = tiny()
    plain = OPTIMIZERS[name](reference.parameters())
    model = tiny()
    optimizer = OPTIMIZERS[name](model.parameters())
    for at in range(9):
        plain_step(reference, plain, tokens(at))
    for part in range(3):
        step = memsched.train_step(model, optimizer, options=STRICT)
        for at in range(3 * part, 3 * part + 3):
            if part == 1:
                step(tokens(at))
            else:
                plain_step(model, optimizer, tokens(at))
        torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "checkpoint")
        model = tiny()
        optimizer = OPTIMIZERS[name](model.parameters())
        weights, state = torch.load(tmp_path / "checkpoint")
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
    assert_same(model, reference)
    torch.testing.assert_close(optimizer.state_dict()["state"], plain.state_dict()["state"])


def test_loading_state_into_a_step_that_ran(interpreted: list[Any]) -> None:
    """load_state_dict replaces every tensor of the state; the next step uses the new ones."""
    model, reference = tiny(), tiny()
    optimizer, plain = Adam(model.parameters()), Adam(reference.parameters())
    step = memsched.train_step(model, optimizer, options=STRICT)
    start = copy.deepcopy(model.state_dict())
    step(tokens(0))
    saved = copy.deepcopy(optimizer.state_dict())
    for at in range(3):
        step(tokens(at))
    model.load_state_dict(start)
    optimizer.load_state_dict(saved)
    step(tokens(5))
    plain_step(reference, plain, tokens(0))
    reference.load_state_dict(start)
    plain_step(reference, plain, tokens(5))
    assert_same(model, reference)


def test_loss_function_and_target(interpreted: list[Any]) -> None:
    """The last element of the batch is the target."""
    model, reference = nn.Linear(4, 3), nn.Linear(4, 3)
    reference.load_state_dict(model.state_dict())
    optimizer, plain = (SGD(m.parameters(), lr=0.1) for m in (model, reference))
    step = memsched.train_step(model, optimizer, loss_fn=F.cross_entropy, options=STRICT)
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    loss = step(x, y)
    expected = F.cross_entropy(reference(x), y)
    expected.backward()
    plain.step()
    torch.testing.assert_close(loss, expected.detach())
    assert_same(model, reference)
    assert not loss.requires_grad


@dataclass
class Output:
    """What a model of Hugging Face returns: the loss, and tensors that no backward starts from."""

    loss: Tensor
    logits: Tensor


class Labelled(nn.Module):
    """Takes keywords, and returns an object with a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.linear(x)
        return logits if labels is None else Output(F.cross_entropy(logits, labels), logits)


@pytest.mark.parametrize("way", ["keywords", "a dictionary", "a loss function"])
def test_batches_of_keyword_arguments(way: str, interpreted: list[Any]) -> None:
    """`step(**batch)` and `step(batch)` are one; a loss function gets all of the batch, the model what it names."""
    torch.manual_seed(0)
    model, reference = Labelled(), Labelled()
    reference.load_state_dict(model.state_dict())
    optimizer, plain = (SGD(m.parameters(), lr=0.1) for m in (model, reference))
    batch = {"x": torch.randn(6, 4), "labels": torch.randint(3, (6,))}
    given, loss_fn = dict(batch), None
    if way == "a loss function":
        given["wanted"] = given.pop("labels")

        def loss_fn(output: Tensor, given: Mapping[str, Tensor]) -> Tensor:
            return F.cross_entropy(output, given["wanted"])

    step = memsched.train_step(model, optimizer, loss_fn=loss_fn, options=STRICT)
    for _ in range(2):
        loss = step(given) if way == "a dictionary" else step(**given)
        torch.testing.assert_close(loss, plain_step(Losses(reference), plain, batch))
    assert_same(model, reference)
    assert len(interpreted) == 1


LOGGER = logging.getLogger("talking")


class Talking(nn.Module):
    """Warns in its forward, by itself and by a method that a library has put on `Logger`, as transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        LOGGER.warning("a loss of another kind")
        LOGGER.warning_once("and once more")  # type: ignore[attr-defined]
        return self.linear(x).square().mean()


def test_messages_in_a_forward_do_not_end_the_graph(
    interpreted: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are not written: the step is compiled.  Dynamo by itself stays as it was."""
    once = functools.lru_cache(None)(lambda logger, text: logger.warning(text))
    monkeypatch.setattr(logging.Logger, "warning_once", once, raising=False)
    torch.manual_seed(0)
    model, reference = Talking(), Talking()
    reference.load_state_dict(model.state_dict())
    step = memsched.train_step(model, SGD(model.parameters(), lr=0.1), options=STRICT)
    optimizer, x = SGD(reference.parameters(), lr=0.1), torch.randn(3, 4)
    for _ in range(2):
        torch.testing.assert_close(step(x), plain_step(reference, optimizer, x))
    assert_same(model, reference)
    assert len(interpreted) == 1
    told = [record.message for record in caplog.records if record.name == "talking"]
    assert told == ["a loss of another kind", "and once more", "a loss of another kind"], "those of the reference"
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(model, backend="eager", fullgraph=True)(x)


def test_two_optimizers_share_the_parameters(interpreted: list[Any]) -> None:
    """Matrices to Muon, the rest to AdamW, as people train; each keeps its own state and its own learning rate."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())

    def optimizers(model: nn.Module) -> list[Optimizer]:
        matrices, rest = ([p for p in model.parameters() if (p.dim() == 2) is wanted] for wanted in (True, False))
        return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(rest, lr=0.01)]

    ours, theirs = optimizers(models[0]), optimizers(models[1])
    step = memsched.train_step(models[0], ours, loss_fn=F.cross_entropy, options=STRICT)
    for number in range(4):
        x, y = torch.randn(5, 6), torch.randint(3, (5,))
        for optimizer in (*ours, *theirs):
            optimizer.param_groups[0]["lr"] = 0.02 / (1 + number)
        step(x, y)
        F.cross_entropy(models[1](x), y).backward()
        for optimizer in theirs:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(dict(models[0].state_dict()), dict(models[1].state_dict()), rtol=2e-3, atol=2e-3)
    assert len(interpreted) == 1
    with pytest.raises(module.Refusal, match=r"parameter 0\.weight is in two optimizers"):
        memsched.train_step(models[0], [*ours, SGD(models[0][0].parameters())])


class Losses(nn.Module):
    """The loss of a model that returns it in an object."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        loss: Tensor = self.model(**batch).loss
        return loss


@pytest.mark.parametrize("optimizer", [SGD, torch.optim.AdamW])
def test_every_kind_of_batch_has_a_program_of_its_own(optimizer: Any, interpreted: list[Any]) -> None:
    """Lengths in turn, a smaller last batch: the same parameters and counts of steps, one compile for each kind."""
    torch.manual_seed(0)
    model, reference = Labelled(), Labelled()
    reference.load_state_dict(model.state_dict())
    ours, plain = (optimizer(m.parameters(), lr=0.1, weight_decay=0.1) for m in (model, reference))
    step = memsched.train_step(model, ours, options={**STRICT, "batch_shapes": 3})
    for size in (6, 5, 6, 2, 5, 6):
        batch = {"x": torch.randn(size, 4), "labels": torch.randint(3, (size,))}
        torch.testing.assert_close(step(**batch), plain_step(Losses(reference), plain, batch))
    assert_same(model, reference)
    assert len(interpreted) == 3
    with pytest.raises(module.Refusal, match=r"element x of the batch is .*\(7, 4\).* 2 other kinds"):
        step(x=torch.randn(7, 4), labels=torch.randint(3, (7,)))


def test_more_kinds_of_batches_than_dynamo_compiles_by_itself(interpreted: list[Any]) -> None:
    model = Labelled()
    step = memsched.train_step(model, SGD(model.parameters(), lr=0.1), options={**STRICT, "batch_shapes": 12})
    for size in range(1, 13):
        step(x=torch.randn(size, 4), labels=torch.randint(3, (size,)))
    assert len(interpreted) == 12


def test_bfloat16_parameters_with_float32_state(interpreted: list[Any]) -> None:
    """Rounded once per step, so closer to float32 than torch's own update of the same parameters."""
    models = [nn.Linear(8, 8) for _ in range(3)]
    models[1].load_state_dict(models[0].state_dict())
    models[2].load_state_dict(models[0].state_dict())
    ours, theirs, exact = models[0].bfloat16(), models[1].bfloat16(), models[2]
    optimizers = [AdamW(m.parameters(), lr=0.01) for m in models]
    x = torch.randn(4, 8)
    options = {**STRICT, "state_dtype": torch.float32}
    step = memsched.train_step(
        ours, optimizers[0], loss_fn=lambda y, t: (y - t).float().square().mean(), options=options
    )
    for at in range(20):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(at))
        step(x.bfloat16(), x.bfloat16())
        for model, optimizer in ((theirs, optimizers[1]), (exact, optimizers[2])):
            z = x.to(next(model.parameters()).dtype)
            (model(z) - z).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    state = optimizers[0].state[ours.weight]
    assert state["exp_avg"].dtype == torch.float32 and ours.weight.dtype == torch.bfloat16
    errors = [(m.weight.float() - exact.weight).abs().mean() for m in (ours, theirs)]
    assert errors[0] < errors[1]


def test_autocast(interpreted: list[Any]) -> None:
    """Products in bfloat16, parameters and updates in float32."""
    model, reference = nn.Linear(8, 1), nn.Linear(8, 1)
    reference.load_state_dict(model.state_dict())
    optimizer, plain = (AdamW(m.parameters(), lr=0.1) for m in (model, reference))
    step = memsched.train_step(model, optimizer, loss_fn=lambda y, t: (y.float() - t).square().mean(), options=STRICT)
    x, y = torch.randn(4, 8), torch.randn(4, 1)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            step(x, y)
            loss = (reference(x).float() - y).square().mean()
        loss.backward()
        plain.step()
        plain.zero_grad()
    torch.testing.assert_close(dict(model.state_dict()), dict(reference.state_dict()), rtol=2e-2, atol=1e-2)


# ---- what needs all gradients


def test_accumulation_over_micro_batches(interpreted: list[Any]) -> None:
    """Two micro-batches and the step: the gradients of all three; `.grad` is None afterwards."""
    model, reference = tiny(), tiny()
    optimizer, plain = Adam(model.parameters()), Adam(reference.parameters())
    step = memsched.train_step(model, optimizer, options=STRICT)
    for _ in range(2):
        step.accumulate(tokens(1))
        step.accumulate(tokens(2))
        step(tokens(3))
        for at in (1, 2, 3):
            reference(tokens(at)).backward()
        plain.step()
        plain.zero_grad()
    assert_same(model, reference)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(interpreted) == 3  # the first micro-batch, the others, the step


@pytest.mark.parametrize("way", ["hold", "recompute"])
def test_clipping_by_the_global_norm(way: str, interpreted: list[Any]) -> None:
    """Both ways are exact; recomputation leaves random numbers and statistics as one run of the model would."""
    model, reference = tiny(dropout=0.5), tiny(dropout=0.5)
    optimizer, plain = (SGD(m.parameters(), lr=0.5, momentum=0.9) for m in (model, reference))
    step = memsched.train_step(
        model, optimizer, options={**STRICT, "clip_grad_norm": 0.25, "clip": way, "fallback_random": True}
    )
    for at in range(4):
        torch.manual_seed(at)
        step(tokens(at))
        torch.manual_seed(at)
        plain_step(reference, plain, tokens(at), clip=0.25)
        assert step.grad_norm is not None and step.grad_norm > 0.25
    assert_same(model, reference)


def test_clipping_what_was_accumulated_knows_gradients_of_one_shape_apart(interpreted: list[Any]) -> None:
    """Sums of one shape share a trace, and with it the value by which tracing tells arguments apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    reference = copy.deepcopy(model)
    optimizer, plain = SGD(model.parameters(), lr=0.5), SGD(reference.parameters(), lr=0.5)
    step = memsched.train_step(
        model, optimizer, loss_fn=lambda out, _: out.square().mean(), options={**STRICT, "clip_grad_norm": 0.1}
    )
    first, second = torch.randn(4, 8), torch.randn(4, 8)
    step.accumulate(first, None)
    step(second, None)
    for x in (first, second):
        reference(x).square().mean().backward()
    norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.1)
    plain.step()
    assert step.grad_norm is not None
    torch.testing.assert_close(step.grad_norm, norm)
    assert_same(model, reference)


@pytest.mark.parametrize("way", ["each", "value"])
def test_clipping_each_gradient_by_itself(way: str, interpreted: list[Any]) -> None:
    """By its own norm, or its elements: no gradient waits for another one."""
    model, reference = tiny(), tiny()
    optimizer, plain = (SGD(m.parameters(), lr=0.5, momentum=0.9) for m in (model, reference))
    asked = {"clip_grad_value": 0.01} if way == "value" else {"clip_grad_norm": 0.5, "clip": "each"}
    step = memsched.train_step(model, optimizer, options={**STRICT, **asked})
    for at in range(4):
        step(tokens(at))
        reference(tokens(at)).backward()
        used = [parameter for parameter in reference.parameters() if parameter.grad is not None]
        if way == "value":
            assert any(parameter.grad.abs().max() > 0.01 for parameter in used)
            nn.utils.clip_grad_value_(used, 0.01)
        else:
            norms = [nn.utils.clip_grad_norm_([parameter], 0.5) for parameter in used]
            assert max(norms) > 0.5 > min(norms)
        plain.step()
        plain.zero_grad()
    assert_same(model, reference)
    assert step.grad_norm is None and len(interpreted) == 1


def test_averaged_parameters_follow_the_step(interpreted: list[Any]) -> None:
    """EMA as torch has it, behind the step: parameters are written in place, and their versions tell so."""
    model, reference = tiny(), tiny()
    optimizer, plain = (AdamW(m.parameters(), lr=0.1) for m in (model, reference))
    averages = [AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.9)) for m in (model, reference)]
    step = memsched.train_step(model, optimizer, options=STRICT)
    for at in range(4):
        step(tokens(at))
        plain_step(reference, plain, tokens(at))
        for averaged, source in zip(averages, (model, reference), strict=True):
            averaged.update_parameters(source)
    assert_same(*averages)
    assert not torch.equal(averages[0].module.embedding.weight, model.embedding.weight)


# ---- losses in float16


class Half(nn.Module):
    """Products in float16; a large factor overflows in the backward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            y = self.layers(x)
        return (y.float() * factor).square().mean()


def inputs(at: int) -> tuple[Tensor, Tensor]:
    """At the third step the gradient of the products is beyond float16, at any scale used here; the loss is finite."""
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(at))
    return x, torch.tensor(1e3 if at == 2 else 1.0)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("way", ["hold", "recompute"])
def test_a_scaled_loss_skips_the_steps_that_overflow(way: str, clip: float | None, interpreted: list[Any]) -> None:
    """Parameters, state, counts of steps and the scale are those of GradScaler's own loop.

    step    0   1          2         3   4
    scale   s   s -> 2s    skipped   s   s -> 2s      growth_interval 2
    """
    model, reference = Half(), Half()
    optimizer, plain = (AdamW(m.parameters(), lr=0.01) for m in (model, reference))
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2) for _ in range(2))
    options = {**STRICT, "grad_scaler": scaler, "clip": way, "clip_grad_norm": clip}
    step = memsched.train_step(model, optimizer, options=options)
    finite = []
    for at in range(5):
        loss = step(*inputs(at))
        finite.append(step.finite)
        expected = reference(*inputs(at))
        other.scale(expected).backward()
        other.unscale_(plain)
        if clip is not None:
            nn.utils.clip_grad_norm_(reference.parameters(), clip)
        other.step(plain)
        other.update()
        plain.zero_grad()
        torch.testing.assert_close(loss, expected.detach())
        assert scaler.get_scale() == other.get_scale()
    assert finite == [True, True, False, True, True]
    assert_same(model, reference)
    torch.testing.assert_close(optimizer.state_dict()["state"], plain.state_dict()["state"])


def test_micro_batches_of_a_scaled_loss(interpreted: list[Any]) -> None:
    """What is in `.grad` meanwhile is scaled, as in GradScaler's loop."""
    model, reference = Half(), Half()
    optimizer, plain = (SGD(m.parameters(), lr=0.1) for m in (model, reference))
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=2.0**10) for _ in range(2))
    step = memsched.train_step(model, optimizer, options={**STRICT, "grad_scaler": scaler})
    for at in (0, 1):
        step.accumulate(*inputs(at))
        other.scale(reference(*inputs(at))).backward()
    for mine, its in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)
    step(*inputs(3))
    other.scale(reference(*inputs(3))).backward()
    other.step(plain)
    assert_same(model, reference)


@pytest.mark.parametrize("asked", [{}, {"clip_grad_norm": 0.1, "clip": "each"}, {"clip_grad_value": 0.01}])
@pytest.mark.parametrize("way", ["hold", "recompute"])
def test_a_step_left_to_stock_scales_and_clips_as_asked(way: str, asked: dict[str, Any]) -> None:
    """The third step overflows and is skipped; so it was left in the middle of such a step, and goes on behind it."""
    model, reference = Half(), Half()
    optimizer, plain = (SGD(m.parameters(), lr=0.1) for m in (model, reference))
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=2.0**10) for _ in range(2))
    step = memsched.train_step(model, optimizer, options={"grad_scaler": scaler, "clip": way, **asked})
    step.finite = False
    step._make_stock = lambda: StockStep(model, step.optimizers, step.options)  # type: ignore[method-assign]
    step._leave_to_stock(RuntimeError("as the test wants it"))
    for at in range(4):
        step(*inputs(at))
        other.scale(reference(*inputs(at))).backward()
        other.unscale_(plain)
        for parameter in reference.parameters():
            if "clip_grad_value" in asked:
                nn.utils.clip_grad_value_([parameter], 0.01)
            elif "clip_grad_norm" in asked:
                nn.utils.clip_grad_norm_([parameter], 0.1)
        other.step(plain)
        other.update()
        plain.zero_grad()
        assert scaler.get_scale() == other.get_scale()
    assert_same(model, reference)


def test_a_scaler_and_two_optimizers_are_refused() -> None:
    model = nn.Linear(2, 2)
    optimizers = [SGD([model.weight]), SGD([model.bias])]
    with pytest.raises(module.Refusal, match="that of all or none"):
        memsched.train_step(model, optimizers, options={"grad_scaler": torch.amp.GradScaler("cpu")})


# ---- refusals: one line, and nothing changed


def scalar_loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def with_hook(register: Callable[[nn.Module], Any]) -> nn.Module:
    linear = nn.Linear(2, 2)
    register(linear)
    return linear


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: (m := nn.Linear(2, 2), torch.optim.LBFGS(m.parameters())), "LBFGS calls a closure"),
        (lambda: (m := nn.Linear(2, 2), torch.optim.SparseAdam(m.parameters())), "sparse gradients"),
        (lambda: (m := nn.Linear(2, 2), torch.optim.Rprop(m.parameters())), "Rprop has no compiled update"),
        (lambda: (nn.Linear(2, 2), SGD(nn.Linear(2, 2).parameters())), "is not the model's"),
        (lambda: (m := nn.Linear(2, 2), SGD([m.weight])), "parameter bias requires a gradient but"),
        (lambda: (m := nn.Embedding(3, 2, sparse=True), SGD(m.parameters())), "the model has sparse gradients"),
        (lambda: (m := with_hook(lambda m: m.weight.register_hook(lambda g: g)), SGD(m.parameters())), "weight has"),
        (
            lambda: (
                m := with_hook(lambda m: m.bias.register_post_accumulate_grad_hook(lambda p: None)),
                SGD(m.parameters()),
            ),
            "bias has a gradient hook",
        ),
        (
            lambda: (m := with_hook(lambda m: m.register_full_backward_hook(lambda *_: None)), SGD(m.parameters())),
            "has a backward hook",
        ),
        (lambda: (m := nn.Linear(2, 2), SGD(m.parameters(), differentiable=True)), "differentiable"),
        (lambda: (nn.Linear(2, 2), "adam"), "optimizer is a str"),
    ],
)
def test_refused_before_anything(make: Callable[[], tuple[nn.Module, Any]], words: str) -> None:
    model, optimizer = make()
    with pytest.raises(module.Refusal, match=words) as refusal:
        memsched.train_step(model, optimizer)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grad_scaler": 1024.0}, "grad_scaler is a float, not a torch.amp.GradScaler"),
        ({"clip_grad_norm": -1.0}, "clip_grad_norm is -1.0"),
        ({"clip_grad_value": math.nan}, "clip_grad_value is nan"),
        ({"clip_grad_value": 1.0, "clip_grad_norm": 1.0}, "clipped in one way"),
        ({"clip": "twice"}, "clip is 'twice'"),
        ({"state_dtype": torch.int8}, "state_dtype is torch.int8"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_refused_options(options: dict[str, Any], words: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=words) as refusal:
        memsched.train_step(model, SGD(model.parameters()), options=options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("loss_fn", "words"),
    [
        (lambda output, target: output - target, "a tensor of shape .3, 2., not a scalar loss"),
        (lambda output, target: (output.sum(), output), "2 tensors"),
        (lambda output, target: target.sum(), "does not depend on any parameter"),
        (lambda output, target: output.detach().sum(), "does not depend on any parameter"),
        (lambda output, target: (output > 0).sum(), "not a scalar loss"),
        (lambda output, target: None, "does not depend on any parameter"),
        (lambda output, target: output.sum() * output.sum().item() if print() is None else 0, "one graph"),
    ],
)
def test_refused_losses(loss_fn: Callable[[Tensor, Tensor], Any], words: str, interpreted: list[Any]) -> None:
    model = nn.Linear(2, 2)
    before = copy.deepcopy(model.state_dict())
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = memsched.train_step(model, optimizer, loss_fn=loss_fn, options=STRICT)
    with pytest.raises(module.Refusal, match=words) as refusal:
        step(torch.ones(3, 2), torch.ones(3, 2))
    assert "\n" not in str(refusal.value)
    assert_same_state(model, before)
    assert not optimizer.state


@pytest.mark.parametrize(
    ("loss_fn", "words"),
    [(lambda output: output.sum(), "the model's output and the target"), ("mse_loss", "cannot be called")],
)
def test_refused_loss_functions(loss_fn: Any, words: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(InputError, match=words) as refusal:
        memsched.train_step(model, SGD(model.parameters()), loss_fn=loss_fn)
    assert "\n" not in str(refusal.value)


def assert_same_state(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_refused_batches(interpreted: list[Any]) -> None:
    """Another shape, another type, another number of elements: named, and nothing runs."""
    model = nn.Linear(4, 2)
    options = {**STRICT, "batch_shapes": 1}
    step = memsched.train_step(model, SGD(model.parameters(), lr=0.1), loss_fn=scalar_loss, options=options)
    step(torch.ones(3, 4), torch.ones(3, 2))
    before = copy.deepcopy(model.state_dict())
    for batch, words in (
        ((torch.ones(2, 4), torch.ones(2, 2)), r"element 0 of the batch is a float32 tensor of shape \(2, 4\)"),
        ((torch.ones(3, 4), torch.ones(3, 2).double()), "element 1 of the batch is a float64"),
    ):
        with pytest.raises(module.Refusal, match=words):
            step(*batch)
    with pytest.raises(InputError, match="a batch of 1 is what the model takes, 0, and a target"):
        step(torch.ones(3, 4))
    assert_same_state(model, before)
    assert len(interpreted) == 1


def test_foreign_gradients_are_refused(interpreted: list[Any]) -> None:
    """A gradient on a parameter that this forward does not use would be forgotten."""
    model = tiny()
    step = memsched.train_step(model, SGD(model.parameters(), lr=0.1), options=STRICT)
    step(tokens())
    model.unused.weight.grad = torch.ones(3, 3)
    with pytest.raises(module.Refusal, match="has a gradient from elsewhere"):
        step(tokens())


@pytest.mark.plans
def test_a_pass_of_the_user_over_the_traced_graph_runs_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    own = Rule("own", "testing", lambda graph: ran.append("ours") or [])
    monkeypatch.setattr(backend, "GRAPH_RULES", (own,))
    options = {**STRICT, "post_grad_custom_post_pass": lambda graph: ran.append("theirs")}
    model = tiny()
    memsched.train_step(model, SGD(model.parameters(), lr=0.1), options=options).plan(tokens())
    assert ran == ["theirs", "ours"]


# ---- failures


def test_progress_is_read_from_the_frame() -> None:
    """The second kernel raises: what was deleted before is updated, what the line uses last is in doubt."""
    source = (
        "def call(args):\n    p1, m1, p2, m2, p3 = args\n    args.clear()\n    kernel(p1, m1)\n    del m1\n    del p1\n"
        "    kernel(p3)\n    kernel(p2, m2)\n    del m2\n    del p2\n    kernel(p3)\n    del p3\n"
    )
    from memsched.inductor.train_step.failure import raise_interrupted

    written = {"first": ("p1", "m1"), "second": ("p2", "m2"), "third": ("p3",)}
    for failing, updated, doubt in (
        (8, ("first",), ("second",)),
        (7, ("first",), ()),
        (11, ("first", "second"), ("third",)),
    ):
        error = raised_at(source, failing)
        with pytest.raises(StepInterrupted, match="of 3 were updated") as interrupted:
            raise_interrupted(error, written)
        assert (interrupted.value.updated, interrupted.value.in_doubt) == (updated, doubt)
    error = raised_at(source, 4)
    with pytest.raises(StepInterrupted, match=r"0 of 3 were updated .*in doubt: first"):
        raise_interrupted(error, written)


def raised_at(source: str, line: int) -> Exception:
    """What `call` of `source` raises when the kernel of that line does."""
    import linecache
    import sys

    name = "<generated>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)

    def kernel(*_: Any) -> None:
        if sys._getframe(1).f_lineno == line:
            raise MemoryError("no room")

    namespace: dict[str, Any] = {"kernel": kernel}
    exec(compile(source, name, "exec"), namespace)
    try:
        namespace["call"]([1, 2, 3, 4, 5])
    except MemoryError as error:
        return error
    raise AssertionError("the kernel did not raise")


def test_a_step_that_cannot_be_compiled_is_left_to_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning and a counter, then the plain loop; with `strict` it raises."""

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(train_step_program, "build_step", fail)
    torch._dynamo.reset()
    memsched.reset()
    model, reference = nn.Linear(4, 2), nn.Linear(4, 2)
    reference.load_state_dict(model.state_dict())
    batch = torch.randn(3, 4), torch.randn(3, 2)
    step = memsched.train_step(model, SGD(model.parameters(), lr=0.1), loss_fn=scalar_loss)
    stock = StockStep(lambda x, y: scalar_loss(model(x), y), step.optimizers, StepOptions())
    step._make_stock = lambda: stock  # type: ignore[method-assign]
    step(*batch)
    optimizer = SGD(reference.parameters(), lr=0.1)
    scalar_loss(reference(batch[0]), batch[1]).backward()
    optimizer.step()
    assert_same(model, reference)
    assert counters == {"train step": 1}
    strict = memsched.train_step(model, SGD(model.parameters(), lr=0.1), loss_fn=scalar_loss, options=STRICT)
    with pytest.raises(RuntimeError, match="could not be compiled"):
        strict(*batch)


# ---- plans


class Stack(nn.Module):
    """Checkpointed layers whose gradients are far larger than their activations."""

    def __init__(self, layers: int = 4, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + checkpoint(lambda y, f=layer: F.gelu(f(y)), x, use_reentrant=False)
        return x.square().mean()


@pytest.mark.plans
def test_gradients_die_as_they_are_born() -> None:
    """Of four equal gradients at most two are ever alive; with the updates last, all four would be."""
    torch._dynamo.reset()
    memsched.reset()
    model = Stack()
    before = copy.deepcopy(model.state_dict())
    step = memsched.train_step(model, AdamW(model.parameters()), options=STRICT)
    report = step.plan(torch.randn(8, 64))
    assert not step.optimizers[0].state
    matrix = 64 * 64 * 4
    assert report.plan.kind == "step"
    assert report.gradient_bytes == 4 * (matrix + 64 * 4) and report.state_bytes == 2 * report.gradient_bytes
    assert report.peak_gradient_bytes < 2 * matrix + 4 * 64 * 4
    assert report.update_after_backward_peak is not None and report.prefusion_peak is not None
    assert report.update_after_backward_peak >= 4 * matrix
    assert report.plan.peak < 0.6 * report.update_after_backward_peak
    assert report.plan.lower_bound <= report.plan.peak == max(report.live_bytes)
    assert_same_state(model, before)
    assert report.to_json()["plan"]["kind"] == "step" and "gradients" in str(report)


class Attending(nn.Module):
    """Attention that is checkpointed: it may draw random numbers, so the state of the generator is saved for it."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.projection = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.attend, x, use_reentrant=False).square().mean()

    def attend(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.projection(x).chunk(3, -1))


@pytest.mark.plans
def test_a_saved_state_of_the_generator_is_planned() -> None:
    """Here its writer and its reader are in one graph, and it is no fake tensor; strictly: nothing is left to stock."""
    torch._dynamo.reset()
    model = Attending()
    report = memsched.train_step(model, SGD(model.parameters(), lr=0.1), options=STRICT).plan(torch.randn(2, 2, 8, 16))
    assert report.plan.kind == "step" and report.gradient_bytes


@pytest.mark.plans
@pytest.mark.parametrize(
    ("clip", "all_alive"),
    [
        ({"clip_grad_norm": 1.0}, True),
        ({"grad_scaler": torch.amp.GradScaler("cpu")}, True),
        ({"clip_grad_norm": 1.0, "clip": "recompute"}, False),
        ({"clip_grad_norm": 1.0, "grad_scaler": torch.amp.GradScaler("cpu"), "clip": "recompute"}, False),
        ({"clip_grad_norm": 1.0, "clip": "each"}, False),
        ({"clip_grad_value": 1.0}, False),
    ],
)
def test_what_needs_every_gradient_costs_all_of_them(clip: dict[str, Any], all_alive: bool) -> None:
    """The norm of all and whether all are finite; with a look before, or for each by itself, they die as they are born.

    gradients of four layers    held      ▟▙  4 alive        else   ▂▂▂▂  two at most
    """
    torch._dynamo.reset()
    model, layer = Stack(), 64 * 64 * 4
    step = memsched.train_step(model, SGD(model.parameters(), lr=0.1), options={**STRICT, **clip})
    alive = step.plan(torch.randn(8, 64)).peak_gradient_bytes
    assert alive >= 4 * layer if all_alive else alive <= 2 * layer + 4 * 64


# ---- compiled


@pytest.mark.compile
def test_compiled_step() -> None:
    """The code that Inductor makes: same parameters and state, less memory than eager, and what a failure tells."""
    torch._dynamo.reset()
    model, reference = Failing(), Failing()
    reference.load_state_dict(model.state_dict())
    optimizer, plain = (AdamW(m.parameters(), lr=0.01) for m in (model, reference))
    step = memsched.train_step(model, optimizer, options=STRICT)
    x = torch.randn(8, 64)
    for _ in range(3):
        torch.testing.assert_close(step(x), plain_step(reference, plain, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dict(model.state_dict()), dict(reference.state_dict()), rtol=1e-4, atol=1e-4)
    ours, theirs = (measure_peak(call) for call in (lambda: step(x), lambda: plain_step(reference, plain, x)))
    assert ours < 0.7 * theirs
    before = copy.deepcopy(model.state_dict())
    FAIL.append(True)
    try:
        with pytest.raises(StepInterrupted, match="were updated") as interrupted:
            step(x)
    finally:
        FAIL.clear()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(interrupted.value.updated) and changed


FAIL: list[bool] = []


@torch.library.custom_op("memsched_tests::may_fail", mutates_args=())
def may_fail(x: Tensor) -> Tensor:
    """The identity; raises while FAIL is not empty."""
    if FAIL:
        raise MemoryError("no room")
    return x.clone()


@may_fail.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("memsched_tests::identity", mutates_args=())
def identity(x: Tensor) -> Tensor:
    """The identity, whose backward is `may_fail`."""
    return x.clone()


@identity.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


identity.register_autograd(lambda ctx, gradient: may_fail(gradient))


class Failing(nn.Module):
    """A backward that may fail between the second half, which is then updated, and the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Stack(1), nn.ModuleList(nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = identity(x + F.gelu(self.first.layers[0](x)))
        for layer in self.second:
            x = x + checkpoint(lambda y, f=layer: F.gelu(f(y)), x, use_reentrant=False)
        return x.square().mean()


def test_the_moments_of_a_step_say_what_is_alive_and_where_it_comes_from() -> None:
    """The loss holds the logits, the end the gradients; paths are the user's own, without our modules around them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 512))
    step = memsched.train_step(model, AdamW(model.parameters()), loss_fn=F.cross_entropy)
    report = step.plan(torch.randn(64, 16), torch.randint(512, (64,)))
    moments = {moment.moment: moment for moment in report.moments}
    assert list(moments) == sorted(moments, key=list(Moment).index) and Moment.LOSS in moments
    assert max(moment.alive for moment in report.moments) == report.plan.peak
    assert moments[Moment.FORWARD].gradients == 0
    assert all(moment.saved + moment.gradients + moment.transients == moment.alive for moment in report.moments)
    assert "loss" in str(report) and report.to_json()["moments"][0]["moment"] == "forward"
    modules = {origin.module for origin in report.plan.origins.values()}
    assert {"0", "2"} <= modules and not any("_with_loss" in module or "_users_model" in module for module in modules)

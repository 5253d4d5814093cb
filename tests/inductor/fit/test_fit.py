"""Levers on a real model: planned bytes are the wrapper's bytes, gradients stay, budgets hold."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache
from torch.nn import functional

import memsched
from memsched.inductor.bytes.measure import trace_memory
from memsched.inductor.capture.lower import planned_way, run_uncompiled
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.fit.choose import climb_for
from memsched.inductor.fit.rungs import rung_of, with_update
from memsched.inductor.options import BackendOptions
from memsched.inductor.rewrites.checkpoint_blocks import blocks_of, checkpoint_blocks
from memsched.inductor.rewrites.save_random import is_random
from memsched.levers.ladder import Rung
from memsched.levers.moments import Moment
from memsched.levers.setting import Setting
from memsched.records.step import OptimizerStep
from tests.inductor.fit.language import Language, batch

STRICT = {"strict": True, "fx_graph_cache": False}
KIB = 1024


@pytest.mark.plans
@pytest.mark.parametrize("with_optimizer", [False, True], ids=["compile", "train_step"])
def test_the_ladder_of_a_language_model_goes_below_half(with_optimizer: bool) -> None:
    """Rungs fall, both levers are pulled, and the model is left as it was."""
    model = Language()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if with_optimizer else None
    found = memsched.fit(model, *batch(), optimizer=optimizer)
    peaks = [rung.peak for rung in found.ladder.rungs]
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] < 0.5 * peaks[0]
    assert found.options["chunk_loss"]
    assert found.fits and found.to_json()["rungs"][0]["levers"] == {}
    assert "loss in 4 chunks" in str(found)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.plans
def test_ten_budgets_give_ten_non_increasing_peaks() -> None:
    """Each setting is planned once; a budget only says where to stop."""
    model, inputs = Language(1), batch()
    planned = functools.cache(lambda setting: rung_of(setting, plan_only(model, inputs, BackendOptions().at(setting))))
    chosen = []
    for share in (1.2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        options = BackendOptions(peak_budget=f"{share}x")
        ladder = climb_for(options, planned)
        chosen.append(ladder.chosen.peak)
        assert not ladder.fits or ladder.chosen.peak <= share * ladder.rungs[0].stock_peak
    assert chosen == sorted(chosen, reverse=True) and len(set(chosen)) >= 3


@pytest.mark.plans
@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize(
    "options",
    [{"chunk_loss": 4}, {"checkpoint_blocks": 1}, {"peak_budget": "0.5x"}, {"chunk_loss": 16, "chunk_tokens": 4}],
)
def test_a_compile_with_levers_measures_what_it_planned(options: dict[str, Any]) -> None:
    model, inputs = Language(), batch()
    compiled = torch.compile(model, backend="memsched", options={**STRICT, **options})
    for _ in range(2):
        compiled(*inputs).backward()
        model.zero_grad(set_to_none=True)
    planned = [report for report in memsched.reports() if report.kind in ("forward", "backward")]
    assert not any(report.fallback for report in planned)
    measured = trace_memory(lambda: compiled(*inputs).backward()).peak
    # Results of a subgraph count from the start of the op that calls it, though they come one by one.
    assert -2 * KIB < max(report.peak for report in planned) - measured < 2 * KIB + 0.01 * measured


@pytest.mark.plans
@pytest.mark.usefixtures("no_kernels")
def test_a_train_step_to_a_budget_measures_what_it_planned() -> None:
    model, inputs = Language(), batch()
    options = {**STRICT, "peak_budget": "0.5x"}
    step = memsched.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), options=options)
    for _ in range(2):
        step(*inputs)
    measured = trace_memory(lambda: step(*inputs)).peak
    assert step.ladder is not None and step.ladder.fits and step.report is not None
    assert step.report.plan.peak == step.ladder.chosen.peak
    # As above: results of a subgraph count from the start of the op that calls it.
    assert -2 * KIB < step.report.plan.peak - measured < 2 * KIB + 0.01 * measured
    assert [rung.moment for rung in step.ladder.rungs][:2] == [Moment.LOSS, Moment.BACKWARD]
    assert step.ladder.chosen.moment is step.report.peak_moment


@pytest.mark.plans
def test_a_budget_that_cannot_be_met_is_one_line_and_the_lowest_peak(caplog: pytest.LogCaptureFixture) -> None:
    model, inputs = Language(2), batch()
    options = {"peak_budget": "1KiB", "levers": ["chunk_loss"]}
    step = memsched.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), options=options)
    step._pull_levers(inputs)
    (line,) = [record.message for record in caplog.records if "budget" in record.message]
    assert "missed by" in line and "\n" not in line
    assert step.ladder is not None and step.options.backend.setting == step.ladder.rungs[-1].setting


@pytest.mark.compile
def test_gradients_with_every_lever_are_eager_s_in_double_precision() -> None:
    model, inputs = Language(2).double(), batch()
    reference = copy.deepcopy(model)
    reference(*inputs).backward()
    options = {**STRICT, "chunk_loss": 4, "checkpoint_blocks": 1}
    torch.compile(model, backend="memsched", options=options)(*inputs).backward()
    rewritten: dict[str, int] = {}
    for report in memsched.reports():
        rewritten |= report.rewrites
    assert rewritten["checkpoint_blocks"] and rewritten["chunk_loss"]
    for (name, ours), eager in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert ours.grad is not None and eager.grad is not None, name
        torch.testing.assert_close(ours.grad, eager.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"peak_budget": "bananas"}, "peak_budget is 'bananas'"),
        ({"levers": "magic"}, "levers names 'magic'"),
        ({"chunk_loss": -1}, "chunk_loss is -1"),
        ({"checkpoint_blocks": -1}, "checkpoint_blocks is -1"),
        ({"saved_share": 2}, "saved_share is 2"),
        ({"fusion": "stock", "peak_budget": "1GiB"}, "cannot be kept"),
        ({"fusion": "budget"}, "needs a peak_budget"),
    ],
)
def test_levers_that_are_none_are_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="memsched: ") as caught:
        BackendOptions(**given)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def joint_graph(path: str = "L['self'].blocks[{}].up", drop: bool = False) -> torch.fx.Graph:
    """Three blocks of two operators in a row, and the gradient of the last one."""
    graph = torch.fx.Graph()
    x = graph.placeholder("primals_1")
    tangent = graph.placeholder("tangents_1")
    value = torch.empty(4, 4)
    for block in range(3):
        for target in (
            torch.ops.aten.sin.default,
            torch.ops.aten.native_dropout.default if drop else torch.ops.aten.cos.default,
        ):
            arguments = (x, 0.5, True) if target is torch.ops.aten.native_dropout.default else (x,)
            x = graph.call_function(target, arguments)
            x.meta |= {"val": value, "nn_module_stack": {"m": (path.format(block), nn.Linear)}}
    x = graph.call_function(torch.ops.aten.neg.default, (x,))
    x.meta |= {"val": value, "nn_module_stack": {"m": ("L['self'].head", nn.Linear)}}
    graph.output((x, graph.call_function(torch.ops.aten.mul.Tensor, (tangent, x))))
    return graph


def test_insides_of_blocks_are_recomputed_and_what_crosses_is_saved() -> None:
    from torch.utils.checkpoint import CheckpointPolicy

    graph = joint_graph()
    assert sorted(set(blocks_of(graph).values())) == [0, 1, 2]
    recomputed = checkpoint_blocks(graph)
    assert [node.target for node in recomputed] == [torch.ops.aten.sin.default] * 3
    ends = [node for node in graph.nodes if node.target is torch.ops.aten.cos.default]
    assert all(node.meta["recompute"] is CheckpointPolicy.MUST_SAVE for node in ends)
    assert checkpoint_blocks(graph) == [], "what is tagged keeps its tags"


def test_two_blocks_to_a_group() -> None:
    assert len(checkpoint_blocks(joint_graph(), every=2)) == 4, "the end of the first block is inside of its group"


def test_random_numbers_are_never_drawn_again() -> None:
    recomputed = checkpoint_blocks(joint_graph(drop=True))
    assert recomputed and all(node.target is torch.ops.aten.sin.default for node in recomputed)


def test_without_a_list_of_blocks_nothing_is_tagged() -> None:
    assert checkpoint_blocks(joint_graph("L['self'].stem")) == []


def test_a_step_that_peaks_in_its_optimizer_says_so_and_is_not_called_optimal() -> None:
    """What is proved is proved of the graphs: the optimizer's own step is not ordered."""
    graphs = Rung(Setting(), 100, 120, 100, "optimal", Moment.END, 9, 0, "backward 0", "x")
    assert with_update(graphs, None) == with_update(graphs, OptimizerStep(50, 60, 40)) == graphs
    later = with_update(graphs, OptimizerStep(state=50, gradients=60, temporaries=41))
    assert (later.peak, later.bound, later.status, later.moment) == (101, 100, "bounded", Moment.UPDATE)


@pytest.mark.plans
@pytest.mark.parametrize("fallback_random", [False, True])
@pytest.mark.parametrize("by_user", [False, True])
def test_a_share_of_what_is_saved_draws_no_random_number_again(fallback_random: bool, by_user: bool) -> None:
    """Stock's knapsack recomputes a dropout with other numbers: gradients 31% off.  Also where the user asks for it,
    by PyTorch's own `activation_memory_budget`."""
    model, inputs = Language(2, dropout=0.5), batch()
    backwards: list[torch.fx.Graph] = []

    def look(gm: torch.fx.GraphModule, _inputs: Any, **how: Any) -> None:
        if how.get("is_backward"):
            backwards.append(gm.graph)

    options = BackendOptions(strict=True, saved_share=1.0 if by_user else 0.05)
    share = torch._functorch.config.patch(activation_memory_budget=0.05 if by_user else 1.0)
    with share, torch._inductor.config.patch(fallback_random=fallback_random):
        run_uncompiled(model, inputs, look, planned_way(options))
    (backward,) = backwards
    assert not [node for node in backward.nodes if node.op == "call_function" and is_random(node)]


@pytest.mark.plans
def test_a_choice_of_levers_that_fails_leaves_them_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning; the step itself goes on."""
    from memsched.inductor.train_step import levers as module

    def broken(*_: Any, **__: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(module, "climb_for", broken)
    model, inputs = Language(1), batch()
    options = {"peak_budget": "0.5x", "checkpoint_blocks": 1}
    step = memsched.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), options=options)
    step._pull_levers(inputs)
    assert sum("choice of levers is left to stock" in record.message for record in caplog.records) == 1
    assert step.options.backend.setting.checkpoint_blocks == 1 and not step.options.backend.pulled


class Adapted(Language):
    """Every weight is frozen but those of adapters of low rank, as in LoRA: the head's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.down, self.up = nn.Linear(16, 2, bias=False), nn.Linear(2, 16, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x + self.up(self.down(x)))
        return functional.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())


@pytest.mark.plans
def test_the_loss_is_chunked_from_the_logits_on_and_not_from_an_adapter() -> None:
    """Beside what it reads an adapter's output is larger than the logits, 8 times to 5 times; Inductor begins there."""
    ladder = memsched.fit(Adapted(), *batch(), levers=["chunk_loss"]).ladder
    assert ladder.chosen.setting.chunks
    assert ladder.chosen.peak < 0.7 * ladder.rungs[0].peak


@pytest.mark.plans
def test_some_of_the_blocks_are_checkpointed_where_that_is_enough() -> None:
    """More checkpoints, less saved, more computed; a budget between two rungs takes no more of them than it needs."""
    model, one = Language(layers=4), batch()
    shares = (0.0, 0.5, 1.0)
    plans = [
        plan_only(model, one, BackendOptions(strict=True, checkpoint_blocks=1, checkpoint_share=s)) for s in shares
    ]
    flops = [sum(report.flops for report in reports) for reports in plans]
    assert flops == sorted(set(flops))
    planned = functools.cache(lambda setting: rung_of(setting, plan_only(model, one, BackendOptions().at(setting))))
    lowest = climb_for(BackendOptions(levers=("recompute",)), planned)
    between = (lowest.rungs[0].peak + lowest.chosen.peak) // 2
    found = climb_for(BackendOptions(levers=("recompute",), peak_budget=str(between)), planned)
    assert found.fits
    assert found.chosen.flops < lowest.chosen.flops


@pytest.mark.plans
def test_blocks_in_chunks_of_tokens_save_nothing_of_their_inside() -> None:
    """Three blocks whose inside is four times as wide as what they give."""
    model, one = Language(), batch()
    peaks = [
        max(report.peak for report in plan_only(model, one, BackendOptions(strict=True, chunk_loss=16, chunk_tokens=n)))
        for n in (0, 4)
    ]
    assert peaks[1] < 0.6 * peaks[0]


class Broken:
    """A rule that leaves a graph which Inductor cannot lower, but only for a model as it is the first time."""

    def __call__(self, graph: torch.fx.Graph, chunks: int) -> list[torch.fx.Node]:
        (product,) = graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default)[:1]
        product.args = (product.args[0], product.args[0])
        return [product]


def test_where_the_loss_cannot_be_compiled_in_chunks_it_stays_whole(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, the right loss and gradients; with `strict` the failure is the caller's."""
    monkeypatch.setattr("memsched.inductor.rewrites.rules.chunk_loss", Broken())
    model, one = Language(layers=1), batch()
    wanted = model(*one)
    gradients = torch.autograd.grad(wanted, list(model.parameters()))
    with fresh_cache(), caplog.at_level(logging.WARNING, logger="memsched"):
        loss = torch.compile(model, backend="memsched", options={"chunk_loss": 4})(*one)
        assert [record.message for record in caplog.records if "what was to be in chunks" in record.message]
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(torch.autograd.grad(loss, list(model.parameters())), gradients)
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed):
            torch.compile(model, backend="memsched", options={"chunk_loss": 4, "strict": True})(*one)


Loss = Callable[[Tensor, Tensor], Tensor]

IN_CHUNKS: dict[str, Loss] = {
    "of a list of rows": lambda logits, y: functional.cross_entropy(logits.view(-1, 512), y.flatten()),
    "with ignored targets": lambda logits, y: functional.cross_entropy(
        logits.view(-1, 512), y.flatten(), ignore_index=3
    ),
    "a sum over a number": lambda logits, y: (
        functional.cross_entropy(logits.view(-1, 512), y.flatten(), reduction="sum") / 100
    ),
    "scaled": lambda logits, y: functional.cross_entropy((logits * 0.5).view(-1, 512), y.flatten()),
    "capped": lambda logits, y: functional.cross_entropy((torch.tanh(logits / 30) * 30).view(-1, 512), y.flatten()),
    "cast": lambda logits, y: functional.cross_entropy(logits.bfloat16().float().view(-1, 512), y.flatten()),
    "shifted": lambda logits, y: functional.cross_entropy(logits[:, :-1].flatten(0, 1), y[:, 1:].flatten()),
    "the mean over a mask": lambda logits, y: (
        functional.cross_entropy(logits.view(-1, 512), y.flatten(), reduction="none") * (y.flatten() > 2)
    ).mean(),
    "of log-probabilities": lambda logits, y: functional.nll_loss(logits.log_softmax(-1).view(-1, 512), y.flatten()),
    "with label smoothing": lambda logits, y: functional.cross_entropy(
        logits.view(-1, 512), y.flatten(), label_smoothing=0.1
    ),
    "of pairs of sequences": lambda logits, y: (
        -functional.logsigmoid(logits.log_softmax(-1).gather(-1, y.unsqueeze(-1)).sum((1, 2)).chunk(2)[0]).mean()
    ),
}


class WithLoss(Language):
    """The same model under another loss."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(layers=1)
        self.loss = loss

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.loss(self.head(self.embedding(tokens)), targets)


@pytest.mark.plans
@pytest.mark.parametrize("loss", IN_CHUNKS.values(), ids=IN_CHUNKS)
def test_the_losses_that_people_write_come_in_chunks(loss: Loss) -> None:
    """The logits are never whole: 256 tokens of 512 words, 512 KiB; the gradients of head and embedding are 64."""
    reports = plan_only(WithLoss(loss), batch(), BackendOptions(strict=True, chunk_loss=4))
    assert any("chunk_loss" in report.rewrites for report in reports)
    assert max(report.peak for report in reports) < 512 * KIB

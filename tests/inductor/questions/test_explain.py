"""Explanations: every figure is computed from a plan, and every tensor at the peak carries a line of the user's code.

Plans are made once for all tests, at the smallest sizes; nothing is compiled.
"""

from __future__ import annotations

import functools
import json
import logging
import random
import re
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memsched
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.core.sizes import InputError
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions
from memsched.inductor.questions.plan_step import plan_step
from memsched.records.explanation import Explanation
from memsched.records.fusion import RefusedFusion
from memsched.records.origin import Origin, Role
from memsched.records.question import StepQuestion
from memsched.records.report import GraphReport
from memsched.records.step import PlannedStep
from memsched.render.page.explanation import render_explanation_page
from memsched.render.text.explanation import explain_graph, explain_step
from memsched.render.text.phrases import render_explanation
from memsched.search.solver import Options, solve
from tests.inductor.test_session import plan  # its plans of the demo's models are made once for both files
from tests.oracle import random_graphs

pytestmark = pytest.mark.plans

MODELS = ("moe", "contrastive", "traversal", "gpt")


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    """Two blocks and a BatchNorm, whose statistics planning must not change."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.statistics = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.statistics(x).square().mean()


@functools.cache
def net_and_explanation() -> tuple[nn.Module, torch.optim.Optimizer, Explanation]:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(8, 16)).backward()
    optimizer.step()
    return model, optimizer, memsched.explain(model, torch.randn(64, 16), optimizer=optimizer)


def report_of(graph: Graph, **more: Any) -> GraphReport:
    """What the backend would report about a graph, without the backend."""
    found = solve(graph, Options(work_limit=2_000, use_ilp=False))
    figures = {"stock_peak": found.peak, "peak": found.peak, "lower_bound": found.lower_bound, "gap": found.gap}
    more = {"seconds": found.seconds, "kernels": len(graph), "graph": graph, "schedule": found} | more
    return GraphReport("backward 0", "backward", len(graph), status=found.status.value, method="", **figures, **more)


# ---- source lines


@pytest.mark.parametrize("name", MODELS)
def test_every_buffer_of_the_demo_models_has_a_line_of_the_models_code(name: str) -> None:
    """Not only at the peak, and never a line of PyTorch's own."""
    reports = plan(name)
    assert [report.kind for report in reports] == ["forward", "backward"]
    for report in reports:
        assert report.graph is not None and report.graph.buffers
        for buffer in report.graph.buffers:
            origin = report.origins[buffer.name]
            assert "bench/models/" in origin.source, (report.name, buffer.name, origin)
            assert " in " in origin.source and origin.dtype, origin


def test_an_activation_names_its_operator_shape_module_and_role() -> None:
    """The up projection is saved by the forward, and the backward calls it the same."""
    _, _, explanation = net_and_explanation()
    found = {(t.origin.role, t.origin.module) for graph in explanation.graphs for t in graph.tensors}
    assert {(Role.SAVED_FOR_BACKWARD, "blocks.0.up"), (Role.SAVED_BY_FORWARD, "blocks.0.up")} <= found
    up = next(t for t in explanation.graphs[0].tensors if t.origin.module == "blocks.0.up")
    assert (up.size, up.origin.dtype, up.origin.shape) == (64 * 64 * 4, "float32", (64, 64))
    assert up.origin.operator == "aten.addmm.default"
    assert "test_explain.py:" in up.origin.source and "self.up(self.norm(x))" in up.origin.source


def test_a_model_of_pytorch_s_own_modules_has_lines_of_pytorch_or_none() -> None:
    """The only other frame is memsched's call of it, which would say nothing."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    for report in plan_only(model, (torch.randn(4, 8),)):
        assert report.origins
        assert not [origin.source for origin in report.origins.values() if "memsched" in origin.source]


def test_gradients_are_called_gradients() -> None:
    """The sizes of the buffers that are, in the whole backward, are those of the parameters."""
    model = Net()
    step = plan_step(model, [torch.randn(8, 16)], StepQuestion(experiments=False, stock=False))
    report = step.reports[1]
    assert report.graph is not None
    gradients = [b.size for b in report.graph.buffers if report.origins[b.name].role is Role.GRADIENT]
    assert sorted(gradients) == sorted(p.numel() * 4 for p in model.parameters())


def test_origins_that_cannot_be_read_do_not_stop_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    from memsched.inductor import origins

    def broken(*_: object) -> dict[str, Origin]:
        raise KeyError("stack_trace")

    monkeypatch.setattr(origins, "_origins_of", broken)
    memsched.reset()
    step = plan_step(nn.Linear(4, 4), [torch.randn(2, 4)], StepQuestion(experiments=False, stock=False))
    assert [report.fallback for report in step.reports] == [""] * len(step.reports)
    assert memsched.records.published.counters["naming buffers"] == len(step.reports)
    assert "no source line" in str(explain_step(step))


# ---- figures


def test_the_live_tensors_and_workspace_add_up_to_the_peak() -> None:
    for name in MODELS:
        for report in plan(name):
            graph = explain_graph(report)
            assert report.graph is not None and report.schedule is not None
            assert sum(tensor.size for tensor in graph.tensors) == graph.peak == report.peak
            assert graph.peak == peak_bytes(report.graph, report.schedule.order)


def test_without_a_tensor_is_the_peak_of_the_same_order_when_it_weighs_nothing() -> None:
    """Against the definition itself: set the size to 0 and replay."""
    compared = 0
    for graph in random_graphs(40, seed=6, largest=9):
        report = report_of(graph)
        assert report.schedule is not None
        for tensor in explain_graph(report).tensors:
            buffers = tuple(
                Buffer(b.name, 0 if b.name == tensor.name else b.size, b.producer, b.consumers, b.kept)
                for b in graph.buffers
            )
            lighter = Graph(graph.name, graph.ops, buffers, graph.order_edges)
            assert tensor.without == peak_bytes(lighter, report.schedule.order)
            compared += 1
    assert compared > 100


def idle_over_a_hill() -> Graph:
    """a writes X (3 bytes, read by d at the end) and Y; b turns Y into the hill Z, c reads Z.  At b, X is idle.

    a ──X:3────────────────> d
    └─Y:1─> b ──Z:8──> c ──W:1──┘
    """
    buffers = (Buffer("X", 3, 0, (3,)), Buffer("Y", 1, 0, (1,)), Buffer("Z", 8, 1, (2,)), Buffer("W", 1, 2, (3,)))
    return Graph("hill", tuple(map(Op, "abcd")), (*buffers, Buffer("out", 1, 3, (), True)))


def test_why_tensors_are_alive_and_which_has_to_go() -> None:
    origins = {"X": Origin("uint8", (3,), "aten.relu.default", "model.py:3 in forward: x.relu()", "first")}
    refusal = RefusedFusion(("a",), ("d",), 5)
    graph = explain_graph(report_of(idle_over_a_hill(), origins=origins, refusals=(refusal,), fusions_refused=1))
    alive = {tensor.name: (tensor.touched, tensor.alive) for tensor in graph.tensors}
    assert (graph.peak, graph.peak_op, graph.next_to_go) == (12, "b", "X")
    assert alive["X"] == (False, "needed by step 3, last by d")
    assert alive["Y"] == (True, "read by the op at the peak")
    assert alive["Z"] == (True, "written by the op at the peak; needed by step 2, last by c")
    assert graph.refused[0].first == "a (model.py:3 in forward: x.relu())" and graph.refused[0].price == 5
    text = render_explanation(Explanation((graph,), None, "not asked", (), "cpu"))
    assert "next to go is X, 3 bytes of model.py:3 in forward: x.relu(): without it this order needs 3 bytes" in text
    assert "refused, would cost 5 bytes" in text


def test_the_step_is_decomposed_and_adds_up() -> None:
    model, optimizer, explanation = net_and_explanation()
    step = explanation.step
    assert step is not None
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert step.held.parameters == 4 * numbers
    assert step.held.gradients == 4 * numbers, "they exist: a backward ran before"
    assert step.held.optimizer_state == 4 * (2 * numbers + len(list(model.parameters())))
    assert step.held.buffers == 4 * 2 * 16 + 8 and step.held.batch == 64 * 16 * 4
    assert step.graph in {graph.name for graph in explanation.graphs} and step.saved > 0
    assert step.total == step.held.total + explanation.peak
    assert len(optimizer.state) == len(list(model.parameters()))


def test_the_model_is_left_as_it_was() -> None:
    """Planning runs the traced graphs: gradients, statistics, modes and random numbers must not show it."""
    torch.manual_seed(0)
    model = Net().eval()
    before = [buffer.clone() for buffer in model.buffers()]
    random_state = torch.random.get_rng_state()
    memsched.explain(model, torch.ones(8, 16), stock=False)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert not any(module.training for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(random_state, torch.random.get_rng_state())


def test_experiments_are_plans_of_the_changed_step() -> None:
    """Half the batch peaks where explaining half the batch says; checkpointing saves what is saved in the blocks."""
    model, _, explanation = net_and_explanation()
    half, block, blocks, *rungs = explanation.experiments
    again = memsched.explain(model, torch.randn(32, 16), experiments=False, stock=False)
    assert half.change == "a batch of 32 instead of 64"
    assert dict(half.peaks) == {graph.name: graph.peak for graph in again.graphs}
    assert blocks.change == "checkpointing each of the 2 blocks of 'blocks'"
    assert block.change in ("checkpointing the block 'blocks.0'", "checkpointing the block 'blocks.1'")
    assert blocks.peaks["forward 0"] < block.peaks["forward 0"] < explanation.graphs[0].peak
    assert 1 <= len(rungs) <= 3


def test_the_next_rungs_are_options_that_give_their_peaks() -> None:
    """Each is a line to paste: planned with these options, the step peaks as it says; peaks fall from rung to rung."""
    model, _, explanation = net_and_explanation()
    rungs = [one for one in explanation.experiments if one.change.startswith("options=")]
    peaks = [explanation.peak]
    for rung in rungs:
        options = json.loads(rung.change.removeprefix("options="))
        planned = plan_only(model, (torch.randn(64, 16),), BackendOptions(**options))
        assert max(report.peak for report in planned) == max(rung.peaks.values())
        peaks.append(max(rung.peaks.values()))
    assert len(peaks) > 1 and peaks == sorted(peaks, reverse=True)
    assert rungs[-1].change in explanation.answer


def test_an_experiment_that_makes_no_sense_says_so() -> None:
    explanation = memsched.explain(lambda x: x.exp().sum(), torch.randn(1, requires_grad=True), stock=False)
    assert [bool(experiment.peaks) for experiment in explanation.experiments] == [False]
    assert "half the batch: not computed, the arguments have no" in str(explanation)


# ---- the page


def test_the_page_shows_both_plans_of_every_graph_and_what_the_step_holds() -> None:
    """Stock's fusions make other graphs: each plan has its own, and the bound is memsched's."""
    _, _, explanation = net_and_explanation()
    assert explanation.planned is not None
    text = render_explanation_page(explanation, "net")
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)[0])
    for part, graph, stock in zip(data["parts"], explanation.graphs, explanation.planned.stock, strict=True):
        assert (part["name"], part["bound"]) == (graph.name, graph.lower_bound)
        assert [plan["title"].split(" (")[0] for plan in part["plans"]] == ["stock Inductor", "memsched"]
        assert [plan["peak"] for plan in part["plans"]] == [graph.stock_peak, graph.peak]
        assert len(part["plans"][0]["order"]) == stock.ops
    assert {"saved for backward", "gradient", "saved by forward"} <= set(data["strings"])
    assert any("test_explain.py:" in word for word in data["strings"])
    for words in ("memsched: net", "optimizer state", "saved activations", "What would lower it", "a batch of 32"):
        assert words in text


def test_what_cannot_be_drawn_is_one_line() -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        render_explanation_page(Explanation((), None, "", (), "cpu"))


# ---- text and JSON


def test_text_and_json_say_the_same() -> None:
    _, _, explanation = net_and_explanation()
    text, plain = str(explanation), json.loads(json.dumps(explanation.to_json()))
    assert plain["format"] == "memsched-explanation/1"
    assert plain["step"]["total"] == explanation.step.total  # type: ignore[union-attr]
    for graph, fields in zip(explanation.graphs, plain["graphs"], strict=True):
        assert fields["peak"] == graph.peak and len(fields["tensors"]) == len(graph.tensors)
        assert fields["stock_peak"] == graph.stock_peak is not None
        assert f"{graph.name}: {graph.ops} ops" in text
        assert graph.bound_words and graph.bound_words in text
    for word in ("stock Inductor", "lower bound", "optimizer state", "saved activations", "what would lower it"):
        assert word in text


def test_inference_has_no_backward() -> None:
    explanation = memsched.explain(nn.Linear(4, 4), torch.randn(2, 4), train=False, experiments=False)
    assert [graph.kind for graph in explanation.graphs] == ["inference"]


def test_graphs_of_a_broken_model_are_not_added_up() -> None:
    """Between two graphs live tensors that neither knows of: no sum is better than a wrong one."""

    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            torch._dynamo.graph_break()
            return x.exp().sum()

    explanation = memsched.explain(Broken(4, 4), torch.randn(2, 4), experiments=False, stock=False)
    assert len(explanation.graphs) == 4 and explanation.step is None
    assert "the step: not added up: the model breaks into 2 graphs" in str(explanation)


def test_a_broken_model_can_be_refused() -> None:
    def broken(x: Tensor) -> Tensor:
        y = x.exp()
        torch._dynamo.graph_break()
        return y.sum()

    with pytest.raises(InputError, match=r"breaks into 2 graphs: .*graph_break.* at .*test_explain\.py:\d+ in broken"):
        memsched.explain(broken, torch.randn(2, requires_grad=True), experiments=False, stock=False, fullgraph=True)


def test_a_message_to_a_logger_is_planned_past_and_told() -> None:
    """One graph, as a compile makes that is told to drop the message; one by one, as a compile makes that is not."""
    logger = logging.getLogger("a model")

    def talks(x: Tensor) -> Tensor:
        y = x.exp()
        logger.warning("of shape %s", y.shape)
        return y.sum()

    def explained(fullgraph: bool) -> Explanation:
        batch = torch.randn(2, requires_grad=True)
        return memsched.explain(talks, batch, experiments=False, stock=False, fullgraph=fullgraph)

    past, apart = explained(fullgraph=True), explained(fullgraph=False)
    assert [graph.kind for graph in past.graphs] == ["forward", "backward"] and past.step is not None
    assert ".add(logging.Logger.warning)" in past.note and "in talks" in past.note
    assert past.note in " ".join(str(past).split()) and past.to_json()["note"] == past.note
    assert apart.step is None and not apart.note


def test_a_workspace_is_told_apart() -> None:
    """c needs 9 bytes of scratch memory while it runs: they are no tensor, and no transient."""
    graph = idle_over_a_hill()
    graph = replace(graph, ops=(*graph.ops[:2], replace(graph.ops[2], workspace=9), graph.ops[3]))
    found = explain_step(PlannedStep((replace(report_of(graph), kind="inference"),)))
    assert found.step is not None
    assert (found.step.workspace, found.step.transients, found.peak) == (9, 12, 21)
    assert found.step.total == found.step.held.total + found.peak


def test_a_graph_that_was_left_to_stock_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from memsched.inductor import fusing

    def broken(*_: object, **__: object) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(fusing, "solve", broken)
    explanation = memsched.explain(nn.Linear(4, 4), torch.randn(2, 4), experiments=False, stock=False)
    assert "left to stock: " in str(explanation) and "out of memory" in str(explanation)
    assert explanation.step is None and not any(graph.peak for graph in explanation.graphs)


# ---- bad input


def no_gradient(x: Tensor) -> Tensor:
    return x.detach().exp()


def not_compilable(x: Tensor) -> Tensor:
    raise RuntimeError("first line\nsecond line")


@pytest.mark.parametrize(
    ("function", "device", "fault"),
    [
        (no_gradient, "cpu", "returns no loss"),
        (not_compilable, "cpu", "first line"),
        (no_gradient, "gpu", "device 'gpu' is unknown"),
        (no_gradient, "meta", "is on 'cpu'"),
    ],
)
def test_what_cannot_be_explained_is_one_line(function: Any, device: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault) as caught:
        memsched.explain(function, torch.randn(2), device=device, experiments=False, stock=False)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(InputError, match="sees no CUDA device"):
        memsched.explain(no_gradient, torch.randn(2), device="cuda")


# ---- speed


def layered(ops: int, width: int = 10) -> Graph:
    """Layers of `width` ops, each of which reads two or three buffers of the layers before."""
    generator = random.Random(7)
    readers: list[set[int]] = [set() for _ in range(ops)]
    for op in range(width, ops):
        for _ in range(generator.randint(2, 3)):
            readers[generator.randrange(max(0, op - 5 * width), op)].add(op)
    buffers = (Buffer(f"buf{op}", generator.randint(1, 99), op, tuple(sorted(readers[op]))) for op in range(ops))
    return Graph("layered", tuple(Op(f"op{op}") for op in range(ops)), tuple(buffers))


def test_a_thousand_ops_are_explained_within_a_second() -> None:
    graph = layered(1000)
    origin = Origin("float32", (4, 4), "aten.mul.Tensor", "model.py:3 in forward: x * y", "blocks.1")
    refusals = tuple(RefusedFusion((f"op{at}",), (f"op{at + 1}",), 5) for at in range(0, 900, 2))
    report = report_of(graph, origins={buffer.name: origin for buffer in graph.buffers}, refusals=refusals)
    started = time.process_time()
    text = str(explain_step(PlannedStep((report,))))
    assert time.process_time() - started <= 1.0
    assert "backward 0: 1000 ops" in text

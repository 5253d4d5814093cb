"""CUDA plans made without a GPU: what Inductor would do on one, in bytes that a replay of its wrapper confirms."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from bench.memory import cuda_plans
from memsched.check.order import check_order
from memsched.cli import main
from memsched.core.sizes import InputError
from memsched.inductor.cuda_without_gpu import CudaUnavailable, CudaWorker, WorkerError, environment, missing
from memsched.inductor.cuda_without_gpu.capture import plan_target
from memsched.inductor.cuda_without_gpu.plans import PlannedGraph, StepPlan
from memsched.inductor.questions.fake_step import build_step
from memsched.inductor.session import PlanningSession
from memsched.planning import largest_that_fits, predict
from tests.paths import ROOT

pytestmark = [pytest.mark.plans, pytest.mark.fakecuda]


LOG = logging.getLogger("tests")
PAGE = (ROOT / "docs" / "plan-on-a-laptop.md").read_text()


@pytest.fixture(scope="module")
def worker() -> Iterator[CudaWorker]:
    """One process for all tests: torch and triton are imported once."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with CudaWorker() as running:
        yield running


def test_two_views_through_one_tower_need_less_on_a_gpu_too(worker: CudaWorker) -> None:
    """The class of models for which stock's fusion costs most, lowered for CUDA; bytes of the replayed wrappers."""
    stock, planned = worker.plans("bench.models:build", arguments={"name": "contrastive", "size": "small"})
    assert [graph.report.kind for graph in planned.graphs] == ["forward", "backward"]
    for graph in planned.graphs:
        assert graph.report.graph is not None and graph.report.graph.device.startswith("cuda")
        assert graph.report.schedule is not None and not graph.report.fallback
        check_order(graph.report.graph, graph.report.schedule.order)
        assert "empty_strided_cuda" in graph.wrapper and "triton" in graph.wrapper
    assert planned.graphs[1].replayed < 0.8 * stock.graphs[1].replayed


def test_the_model_is_the_generated_wrapper(worker: CudaWorker) -> None:
    """Its normalisations run over both towers at once: what they write in place is read by two indices until Inductor
    merges the loops, behind our pass.  In the incoming order and in two random ones."""
    rows = worker.call("bench.memory.model:rows_of_cuda", "siamese", "small")
    assert len(rows) == 6
    assert [row["modelled"] for row in rows] == [row["replayed"] for row in rows]


def test_a_model_larger_than_this_machine_is_planned(worker: CudaWorker) -> None:
    """16 layers of 1 GiB and a batch of 32 GiB: fake tensors have sizes and no storage."""
    plan = worker.plan("tests.inductor.test_cuda_without_gpu:large", batch_size=1 << 19)
    assert plan.held.parameters == 16 << 30 and plan.held.batch == 32 << 30
    assert plan.graphs[0].entry == plan.held.parameters + plan.held.batch


def large(batch_size: int) -> object:
    """A model that fits no laptop; called in the worker."""
    import torch

    layers = [torch.nn.Linear(1 << 14, 1 << 14, bias=False) for _ in range(16)]
    return torch.nn.Sequential(*layers), torch.randn(batch_size, 1 << 14)


def with_constants() -> tuple[nn.Module, tuple[Tensor], torch.optim.Optimizer]:
    """A model that makes tensors of numbers on the device of its input, as T5's and GPT-2's caches and losses do."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            empty = torch.tensor([], dtype=x.dtype, device=x.device)
            scale = torch.tensor([2.0], device=x.device)
            return torch.cat([self.layer(x).relu().flatten() * scale, empty]).mean()

    model = Scaled()
    return model, (torch.ones(32, 64),), torch.optim.SGD(model.parameters())


@pytest.mark.parametrize("way", ["memsched", "train_step"])
def test_constants_that_a_model_puts_on_the_gpu_are_planned(way: str, worker: CudaWorker) -> None:
    """Tracing computes what is made of constants alone, on their device, which is not here."""
    (plan,) = worker.plans("tests.inductor.test_cuda_without_gpu:with_constants", ways=(way,))
    predicted = predict(plan)
    assert 0 <= predicted.replayed - predicted.modelled <= 512


class Talkative(nn.Module):
    """As Hugging Face's GPT-2: each forward has a word for a logger, which would end the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        LOG.warning("no labels")
        loss: Tensor = self.layer(x).square().mean()
        return loss


def warns(size: int = 4) -> tuple[nn.Module, tuple[Tensor]]:
    return Talkative(), (torch.ones(size, 8),)


def test_a_message_to_a_logger_is_planned_past_and_told() -> None:
    (plan,) = plan_target("tests.inductor.test_cuda_without_gpu:warns", code=False)
    assert [graph.report.kind for graph in plan.graphs] == ["forward", "backward"]
    assert "test_cuda_without_gpu.py:" in plan.note and "in forward" in plan.note
    assert ".add(logging.Logger.warning)" in plan.note
    (silent,) = plan_target("tests.inductor.test_cuda_without_gpu:convolutions", code=False)
    assert silent.note == ""


def test_fusions_do_not_raise_a_peak_that_fusions_have_brought_down(worker: CudaWorker) -> None:
    """AdamW's update of an embedding, unfused, needs four tables; fused one, and then the columns of its gradient bind.

    Where the kernels that refusals cost are limited, the budget stays that of the plan before fusion.
    """

    def peak(**options: int) -> int:
        arguments = {"shape": "tiny", "length": 8, "layers": 1}
        (plan,) = worker.plans(
            "examples/llama.py:step", ways=("train_step",), options=options, arguments=arguments, code=False
        )
        return plan.reports[0].peak

    assert peak() < 0.5 * peak(max_extra_kernels=10**6)


def test_pairs_that_inductor_only_collects_are_not_judged(worker: CudaWorker) -> None:
    """AdamW's updates read one step count each: unfused, every two of their ops are a pair that Inductor collects.

    Each pair is judged in a window of the backward, and the work grew with the cube of the layers.
    """

    def asked(layers: int) -> tuple[int, int]:
        (plan,) = worker.plans(
            "examples/llama.py:step", ways=("train_step",), arguments={"shape": "tiny", "layers": layers}, code=False
        )
        return plan.reports[0].fusions_asked, plan.reports[0].ops

    (few, _), (many, ops) = asked(2), asked(6)
    assert 0 < few < many < min(3 * few, 1.5 * ops)


def test_a_whole_step_that_cannot_be_planned_names_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no order")

    monkeypatch.setattr(PlanningSession, "_order", fail)
    with pytest.raises(InputError, match=r"train_step: .*no order"):
        plan_target("tests.inductor.test_cuda_without_gpu:with_constants", ways=("train_step",), code=False)


@pytest.mark.parametrize("more", [[], ["--json"], ["--vary", "size=4,8"]])
def test_what_a_plan_takes_for_granted_is_told_whatever_is_printed(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "tests.inductor.test_cuda_without_gpu:warns", "--device", "cpu", *more]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "past a message to a logger" in line]
    assert len(told) == 1 and told[0].startswith("memsched: planned past")


def convolutions() -> tuple[nn.Module, tuple[Tensor]]:
    """Three convolutions, whose weights Inductor copies into its layout."""
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    return nn.Sequential(*layers), (torch.ones(2, 3, 16, 16),)


def test_stock_beside_memsched_is_stock() -> None:
    """What memsched saves for the backward, and how that lies, is not what stock's backward would find."""
    target = "tests.inductor.test_cuda_without_gpu:convolutions"
    beside, planned = plan_target(target, ways=("stock", "memsched"))
    (alone,) = plan_target(target, ways=("stock",))
    assert [described(graph) for graph in beside.graphs] == [described(graph) for graph in alone.graphs]
    assert planned.step_peak < alone.step_peak


def described(planned: PlannedGraph) -> tuple[str, int, int, int]:
    report = planned.report
    return report.kind, report.kernels, report.peak, planned.replayed


def test_a_wrong_time_limit_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda_plans.main(["--models", "gpt", "--time-limit", "-1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench cuda-plans: --time-limit: ") and "-1.0, not a number of 0 or more" in line


def test_a_worker_tells_what_failed_and_goes_on(worker: CudaWorker) -> None:
    with pytest.raises(InputError, match="no function 'nothing'"):
        worker.plan("bench.models:nothing")
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        worker.call("operator:truediv", 1, 0)
    assert worker.call("operator:add", 1, 2) == 3


@pytest.mark.parametrize("way", ["stock", "memsched", "train_step"])
def test_statistics_that_a_graph_writes_are_planned(way: str, worker: CudaWorker) -> None:
    """BatchNorm writes to inputs of the graph, for which Inductor asked a module that was never compiled."""
    (plan,) = worker.plans("tests.inductor.test_cuda_without_gpu:normalized", ways=(way,))
    predicted = predict(plan)
    assert plan.held.buffers > 0
    assert 0 <= predicted.replayed - predicted.modelled <= 512, "the loss, which the backward finds, is the caller's"


def test_a_whole_step_of_images_is_not_above_stock_on_a_gpu(worker: CudaWorker) -> None:
    """With the channels last everywhere it would be; scratch memory, by which the CPU knows, is not known here."""
    target = "tests.inductor.test_cuda_without_gpu:dense"
    stock, whole = worker.plans(target, ways=("stock", "train_step"))
    (forced,) = worker.plans(target, ways=("train_step",), options={"layout_optimization": True})
    assert predict(whole).peak <= predict(stock).peak < predict(forced).peak


def dense() -> object:
    """Convolutions of which each reads all before it; called in the worker."""
    from bench.models import build

    example = build("densenet", "small")
    return example.model, example.batch, torch.optim.SGD(example.model.parameters())


def normalized() -> object:
    """A convolution and a BatchNorm; called in the worker."""
    model = Loss(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    return model, torch.randn(2, 3, 16, 16), torch.optim.SGD(model.parameters(), lr=0.1)


class Loss(nn.Sequential):
    """Layers, and a scalar of what they give."""

    def forward(self, x: Tensor) -> Tensor:
        loss: Tensor = super().forward(x).square().mean()
        return loss


def test_a_worker_that_was_killed_says_why() -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with CudaWorker() as worker, pytest.raises(WorkerError, match="was killed, as Linux does where memory runs out"):
        worker.call("tests.inductor.test_cuda_without_gpu:killed")


def killed() -> None:
    """What the kernel does to a process that takes all of the memory; called in the worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def converted() -> tuple[nn.Module, tuple[Tensor], torch.optim.Optimizer]:
    """A model in bfloat16, as people write it; its two weights are one, and the optimizer has it."""
    model = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 16, bias=False))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    model = model.half().double().to(torch.bfloat16)
    assert model[1].weight is model[0].weight is optimizer.param_groups[0]["params"][0]
    return model, (torch.zeros(2, dtype=torch.long),), optimizer


def test_a_model_is_converted_on_fake_tensors() -> None:
    """`nn.Module.to` swaps a fake parameter, which its weak references forbid: the model was built with real tensors,
    at any size."""
    told: list[str] = []
    step = build_step("tests.inductor.test_cuda_without_gpu:converted", {}, "cpu", told.append)
    assert told == [] and step.held.parameters == 16 * 8 * 2
    (parameter,) = step.model.parameters()
    assert isinstance(parameter, FakeTensor) and parameter.dtype == torch.bfloat16
    assert step.optimizers[0].param_groups[0]["params"][0] is parameter


def reading() -> tuple[nn.Module, tuple[Tensor]]:
    """A model whose builder looks at a number."""
    model = nn.Linear(4, 4)
    if model.weight.abs().max() > 0:
        model.requires_grad_(False)
    return model, (torch.ones(2, 4),)


def test_a_model_that_needs_values_is_built_with_them_and_that_is_told() -> None:
    told: list[str] = []
    step = build_step("tests.inductor.test_cuda_without_gpu:reading", {}, "cpu", told.append)
    assert isinstance(step.model, nn.Module) and not step.model.weight.requires_grad
    assert len(told) == 1 and told[0].startswith("building the model once more, with real tensors (")


# ---- memsched plan


def plan(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["plan", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the step of the page, and steps that cannot be planned."""
    (tmp_path / "laptop.py").write_text(re.findall(r"```python\n(# laptop.py\n.*?)```", PAGE, re.S)[0])
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


WRONG = """import torch
from torch import nn

class Breaking(nn.Linear):
    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x).sum()

def fails(): return nn.Linear(3, 3), (torch.randn(2, 4),)
def no_loss(): return nn.Linear(3, 3).requires_grad_(False), (torch.randn(2, 3),)
def breaks(): return Breaking(3, 3), (torch.randn(2, 3),)
def no_optimizer(): return Loss(nn.Linear(3, 3)), (torch.randn(2, 3),)
class Loss(nn.Sequential):
    def forward(self, x): return super().forward(x).square().mean()

def updates(foreach):
    model = Loss(nn.Linear(512, 512, bias=False), nn.ReLU())
    return model, (torch.randn(2, 512),), torch.optim.AdamW(model.parameters(), foreach=bool(foreach))

def equal_layers(refused=False):
    model = Loss(*(nn.Linear(64, 64) for _ in range(8)))
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    one = torch.optim.LBFGS(model.parameters())
    return model, (torch.randn(2, 64),), one if refused else [torch.optim.AdamW(matrices), torch.optim.SGD(rest)]
"""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["wrong:missing"], "no function 'missing'"),
        (["wrong:fails"], "a and b must have same reduction dim"),
        (["wrong:no_loss"], "the model returns no loss"),
        (["wrong:breaks"], "wrong.py:6 in forward"),
        (["wrong:breaks", "--batch-size", "4"], "unexpected keyword argument 'batch_size'"),
        (["wrong:breaks", "--device", "tpu"], "device 'tpu' is unknown"),
        (["wrong:breaks", "--device-memory", "24 bananas"], "'24 bananas' is not a size"),
        (["wrong:breaks", "--batch-size", "64..1"], "'64..1' is not a size such as 8"),
        (["wrong:breaks", "--batch-size", "1..64"], "a range needs --device-memory"),
        (["wrong:breaks", "--vary", "width"], "--vary: 'width' is not NAME=1,2,4"),
        (["wrong:breaks", "--vary", "width=8..2"], "'width=8..2' is not a range"),
        (["wrong:breaks", "--vary", "width=1..8"], "--vary: a range needs --device-memory"),
        (["wrong:breaks", "--vary", "width=1,2", "--batch-size", "1..4"], "one of them may be a range"),
        (["wrong:breaks", "--vary", "width=1,2"], "unexpected keyword argument 'width'"),
        (["wrong:no_optimizer", "--train-step"], "train_step: the function returns no optimizer"),
        (["wrong:breaks", "--train-step", "--inference"], "--train-step: --inference has no training step"),
        (["wrong:equal_layers", "--train-step", "--vary", "refused=1,1"], "train_step: LBFGS"),
        ([], "MODULE:FUNCTION is missing"),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = plan(capsys, "--device", "cpu", *argv)
    *logged, last = err.splitlines()  # under pytest, torch logs what it raises to standard error as well
    assert (code, out) == (2, "") and not any("memsched: " in line for line in logged)
    assert last.startswith("memsched: ") and message in last


def test_parts_add_up_to_what_the_replay_and_the_caller_hold(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four linear layers with AdamW: 4 * (4096 * 4096 + 4096) parameters of 4 bytes, twice that and eight
    counts of steps in the optimizer."""
    parameters = 4 * 4 * (4096 * 4096 + 4096)
    code, out, _ = plan(capsys, "laptop:step", "--device", "cpu", "--batch-size", "1", "--json")
    assert code == 0
    for way in json.loads(out)["ways"]:
        assert way["parameters"] == parameters and way["optimizer_state"] == 2 * parameters + 8 * 4
        assert way["batch"] == 2048 * 4096 * 4
        held = way["parameters"] + way["buffers"] + way["batch"] + way["optimizer_state"]
        assert way["peak"] == held + way["replayed"] + way["workspace"]
        assert way["replayed"] == way["gradients"] + way["saved"] + way["transients"]


def test_a_step_may_peak_in_the_optimizer(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While it updates, all gradients are there; with foreach also the roots of all second moments."""
    weights = 512 * 512 * 4
    code, out, _ = plan(capsys, "wrong:updates", "--device", "cpu", "--vary", "foreach=0,1", "--json")
    assert code == 0
    for entry in json.loads(out)["plans"]:
        for way in entry["ways"]:
            assert way["graph"] == "optimizer step"
            assert way["gradients"] == weights and way["transients"] >= weights
    code, out, _ = plan(capsys, "wrong:updates", "--device", "cpu", "--vary", "foreach=1", "--inference")
    assert code == 0 and "optimizer step" not in out


def test_the_whole_step_as_one_graph_is_planned_beside_the_others(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight equal layers, AdamW for the matrices and SGD for the rest.  A compiled backward returns all gradients, and
    the optimizers find them alive; in one graph a gradient is alive for its own update.

        stock, memsched    8 gradients + the temporaries of an optimizer
        train_step         2 gradients at most, the update of one beside the birth of the next
    """
    code, out, _ = plan(capsys, "wrong:equal_layers", "--device", "cpu", "--json")
    ways = {way["way"]: way for way in json.loads(out)["ways"]}
    assert code == 0 and list(ways) == ["stock", "memsched", "train_step"]
    one, layer = ways["train_step"], 64 * 64 * 4
    assert one["model_error"] == 0.0 and one["bound"] <= one["replayed"]
    assert one["gradients"] <= 2 * layer < 8 * layer <= ways["memsched"]["gradients"]
    assert one["replayed"] == one["gradients"] + one["saved"] + one["transients"]
    assert one["optimizer_state"] == ways["memsched"]["optimizer_state"]
    assert one["peak"] < ways["memsched"]["peak"]
    code, out, _ = plan(capsys, "wrong:equal_layers", "--device", "cpu", "--no-train-step", "--json")
    assert code == 0 and [way["way"] for way in json.loads(out)["ways"]] == ["stock", "memsched"]


def test_an_optimizer_that_train_step_does_not_take_leaves_the_other_plans(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "refused.py").write_text("import wrong\ndef step(): return wrong.equal_layers(True)\n")
    code, out, err = plan(capsys, "refused:step", "--device", "cpu", "--json")
    assert code == 0 and [way["way"] for way in json.loads(out)["ways"]] == ["stock", "memsched"]
    assert "memsched: not planned: train_step: LBFGS calls a closure" in err


def test_what_varies_may_be_planned_for_the_whole_step(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table says which way it is about."""
    arguments = ("wrong:updates", "--device", "cpu", "--vary", "foreach=0,1", "--train-step")
    code, out, _ = plan(capsys, *arguments)
    head, *rows = out.splitlines()
    assert code == 0 and head.split()[:3] == ["foreach", "stock", "train_step"]
    shares = [float(share) for row in rows for share in row.split() if share.startswith("0.")]
    assert len(shares) == 2 and max(shares) < 1


LANGUAGE = "tests.inductor.test_cuda_without_gpu:language"


@pytest.fixture(scope="module")
def steps(worker: CudaWorker) -> list[StepPlan]:
    """The step of a language model, compiled and as a whole; planned once."""
    return worker.plans(LANGUAGE, ways=("memsched", "train_step"))


def test_the_whole_step_on_a_gpu_that_is_not_there(steps: list[StepPlan]) -> None:
    """In bytes of the wrapper, in blocks of 512; what the plan was made under is what came out."""
    planned, whole = steps
    (graph,) = whole.graphs
    assert graph.report.kind == "step" and "empty_strided_cuda" in graph.wrapper
    assert graph.replayed == graph.report.peak >= graph.report.lower_bound
    assert whole.held == planned.held and planned.held.update is not None
    assert predict(whole).peak < predict(planned).peak


def test_without_code_the_reports_are_the_same(steps: list[StepPlan], worker: CudaWorker) -> None:
    """A ladder reads nothing but reports, and generating code is a third of what a plan costs."""
    without = worker.plans(LANGUAGE, ways=("memsched", "train_step"), code=False)
    for one, other in zip(steps, without, strict=True):
        for report, same in zip(one.reports, other.reports, strict=True):
            assert report.schedule is not None and same.schedule is not None
            assert replace(report.schedule, seconds=0.0) == replace(same.schedule, seconds=0.0)
            assert (report.flops, report.kernels) == (same.flops, same.kernels)
        assert one.moments == other.moments and one.held == other.held
        assert all(graph.wrapper for graph in one.graphs) and not any(graph.wrapper for graph in other.graphs)


def language() -> object:
    """A language model of two layers and AdamW; called in the worker."""
    from bench.models import build

    example = build("gpt", "small")
    return example.model, example.batch, torch.optim.AdamW(example.model.parameters())


@pytest.mark.parametrize(("limit", "answer"), [(99, None), (100, 1), (145, 5), (1099, 99), (1100, 100), (10**9, 100)])
def test_the_largest_that_fits_fits_and_one_more_does_not(limit: int, answer: int | None) -> None:
    """Need grows by 10 bytes a sample from 100 bytes on, in steps of 20: not quite a line."""
    asked: list[int] = []

    def need(batch: int) -> int:
        asked.append(batch)
        return 100 + 20 * (batch // 2)

    found = largest_that_fits(need, limit, 1, 100)
    assert found == max((batch for batch in range(1, 101) if need(batch) <= limit), default=None)
    assert found == answer
    assert len(asked) - 100 <= 5


def test_any_argument_may_vary(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of three values, and the largest of a range: both from the same plans."""
    (project / "wide.py").write_text(
        "import torch\n"
        "def step(width=4, batch_size=2):\n"
        "    return torch.nn.Linear(64, width), (torch.randn(batch_size, 64),)\n"
    )
    given = ("wide:step", "--device", "cpu", "--reserve", "0", "--batch-size", "8")
    code, out, _ = plan(capsys, *given, "--vary", "width=4,8,16", "--json")
    peaks = [row["ways"][1]["peak"] for row in json.loads(out)["plans"]]
    assert code == 0 and peaks == sorted(set(peaks))
    code, out, _ = plan(capsys, *given, "--vary", "width=4,8,16", "--device-memory", str(peaks[1]))
    assert code == 0 and [line.split()[-1] for line in out.splitlines()] == ["fits", "yes", "yes", "no"]
    code, out, _ = plan(capsys, *given, "--vary", "width=4..16", "--device-memory", str(peaks[1]))
    assert code == 0 and "largest width of 4..16 that fits: 8" in out


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_commands_of_the_page_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line.strip() for line in PAGE.splitlines() if line.startswith("    memsched ")]
    assert len(commands) == 4
    for command in commands:
        assert main(command.split()[1:]) == 0, command
    assert "largest batch size of 1..64 that fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("__version__ = '2.14.0+cpu'\ncuda: Optional[str] = None\n", "verified on 2.13 only"),
        ("__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\n", "needs the CPU build"),
        ("nothing", "verified on 2.13 only"),
    ],
)
def test_another_torch_is_refused(version: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version.py").write_text(version)
    monkeypatch.setattr(environment, "_torch_dir", lambda: tmp_path)
    assert reason in missing()
    with pytest.raises(CudaUnavailable, match=reason):
        environment.build_shim()


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSCHED_CACHE_DIR", str(tmp_path))
    assert "triton 3.7.1 is not set up" in missing()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler" in missing()

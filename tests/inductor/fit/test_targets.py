"""`memsched fit`, and ladders of targets: the commands of the page, devices with and without a GPU, bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memsched.cli import EXIT_BAD_INPUT, EXIT_DONE, EXIT_ROSE, main
from memsched.cli.command import EXIT_INTERRUPTED
from memsched.inductor.fit import model as fit_model
from memsched.levers.ladder import Rung
from memsched.levers.setting import Setting
from tests.inductor.fit.language import Language, batch
from tests.paths import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which one is, with `train.py` of a training step and `small.py` of a smaller one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "train.py").write_text(
        "import torch\nfrom tests.inductor.fit.language import Language, batch\n"
        "def step():\n    model = Language(2)\n    return model, batch(), torch.optim.SGD(model.parameters(), lr=0.1)\n"
    )
    (tmp_path / "small.py").write_text(
        "import torch\nfrom tests.inductor.fit.language import Language\n"
        "def step(batch_size=4):\n    tokens = torch.randint(512, (batch_size, 64))\n"
        "    return Language(1), (tokens, tokens.roll(1, 1))\n"
    )
    for name in ("train", "small"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("train", "small"):
        sys.modules.pop(name, None)


def _once(plan: Callable[..., Rung]) -> Callable[..., Rung]:
    """`plan`, asked once for each setting."""
    known: dict[Setting, Rung] = {}

    def planned(setting: Setting, how: Callable[[], Any]) -> Rung:
        if setting not in known:
            known[setting] = plan(setting, how)
        return known[setting]

    return planned


@pytest.mark.plans
def test_the_commands_of_the_page_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/fit.md, but for the command that plans for cuda, which `test_fit_for_cuda` runs."""
    del project
    # All of them plan the same step: what was planned once under a setting is not planned again.
    monkeypatch.setattr(fit_model, "planned_step_rung", _once(fit_model.planned_step_rung))
    lines = (ROOT / "docs" / "fit.md").read_text().splitlines()
    commands = [line.split("#")[0].strip() for line in lines if line.startswith("    memsched fit")]
    assert len(commands) == 3
    for command in commands:
        if "cuda" not in command:
            assert main(command.split()[1:]) == EXIT_DONE
            assert "memsched.train_step(model, optimizer, options=" in capsys.readouterr().out
    assert main(["fit", "train:step", "--peak", "1KiB", "--json"]) == EXIT_ROSE
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == "memsched-fit/1" and not told["fits"]
    assert told["rungs"][0]["recompute_flops"] == 0
    assert main(["fit", "train:step", "--peak", "bananas"]) == EXIT_BAD_INPUT


@pytest.mark.plans
def test_what_fits_into_a_device_and_with_which_batch(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The room is of all that a step needs: what the caller holds, and the peak of the chosen rung above it."""
    levers = ("--levers", "chunk_loss")
    assert main(["fit", "small:step", *levers, "--vary", "batch_size=2,4", "--json"]) == EXIT_DONE
    two, four = json.loads(capsys.readouterr().out)["fits"]
    lowest = four["held"] + four["rungs"][-1]["peak"]
    room = ("--device-memory", f"{lowest}B", "--reserve", "0")
    assert main(["fit", "small:step", *levers, *room, "--batch-size", "1..8", "-o", "ladder.svg"]) == EXIT_DONE
    out = capsys.readouterr().out
    (largest,) = [int(line.split()[-1]) for line in out.splitlines() if line.startswith("largest batch size")]
    assert 4 <= largest < 8 and two["held"] < four["held"]
    assert "<svg" in (project / "ladder.svg").read_text()
    assert main(["fit", "small:step", *levers, "--device-memory", "1KiB", "--reserve", "0"]) == EXIT_ROSE
    assert "alone need more" in capsys.readouterr().out


@pytest.mark.plans
def test_ctrl_c_keeps_the_rungs_that_were_found(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del project
    plan, planned = fit_model._plan_model, []

    def interrupted(*how: Any) -> Any:
        planned.append(how)
        if len(planned) > 1:
            raise KeyboardInterrupt
        return plan(*how)

    monkeypatch.setattr(fit_model, "_plan_model", interrupted)
    assert main(["fit", "small:step"]) == EXIT_INTERRUPTED
    out = capsys.readouterr().out
    assert "order and fusion" in out and "interrupted: there may be rungs further down" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--batch-size", "1..8"), "a range needs --device-memory"),
        (("--vary", "length=1,2", "-o", "x.svg"), "the figure is of one ladder"),
        (("-o", "ladder.txt"), "ladder.txt: the figure is written as .png"),
        (("-o", "nowhere/ladder.svg"), "nowhere/ladder.svg: its folder does not exist"),
        (("--gpu", "abacus"), "abacus"),
        (("--device", "tpu"), "device 'tpu' is unknown"),
    ],
)
def test_bad_input_is_one_line(argv: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "small:step", *argv]) == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("memsched: ") and words in line


@pytest.mark.fakecuda
def test_fit_for_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On fake tensors, in a worker: the ladder of a language model that is not built on any device."""
    from memsched.fitting import FitPlanner
    from memsched.inductor.cuda_without_gpu import missing

    if missing():
        pytest.skip(missing())
    monkeypatch.chdir(ROOT)
    with FitPlanner("tests.inductor.fit.test_targets:language_step", "cuda", "0.9x", ["recompute"]) as planner:
        found = planner.fit()
    assert not found.train_step and found.ladder.rungs[-1].peak < found.ladder.rungs[0].peak
    del tmp_path


def language_step() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """For `FitPlanner`."""
    return Language(2, 64, 2048), batch(2048)


@pytest.mark.fakecuda
def test_fit_of_the_whole_step_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an optimizer the ladder is that of `train_step`, as on the CPU; without it, with the optimizer's own step.

    Both peak at the logits.  The one graph counts the loss there too, a block of 512 bytes, which a backward does not:
    for that it is the caller's.
    """
    from memsched.fitting import FitPlanner
    from memsched.inductor.cuda_without_gpu import missing

    if missing():
        pytest.skip(missing())
    monkeypatch.chdir(ROOT)
    target, levers, found = "tests.inductor.fit.test_targets:trained_step", ["chunk_loss"], {}
    for train_step in (None, False):
        with FitPlanner(target, "cuda", "0.9x", levers, train_step=train_step) as planner:
            found[train_step] = planner.fit()
    whole, compiled = found[None], found[False]
    assert whole.train_step and not compiled.train_step
    assert whole.held == compiled.held
    assert whole.ladder.rungs[-1].peak < whole.ladder.rungs[0].peak <= compiled.ladder.rungs[0].peak + 512
    assert "memsched.train_step(model, optimizer, options={'chunk_loss'" in str(whole)


def trained_step() -> tuple[nn.Module, tuple[Tensor, Tensor], torch.optim.Optimizer]:
    """For `FitPlanner`."""
    model, inputs = language_step()
    return model, inputs, torch.optim.AdamW(model.parameters())


@pytest.mark.fakecuda
@pytest.mark.parametrize("train_step", [True, False])
def test_a_deep_step_is_estimated_from_few_layers_and_what_is_chosen_is_planned(
    train_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimates beside plans of the same settings; the chosen one is the plan itself."""
    from memsched.fitting import FitPlanner
    from memsched.inductor.cuda_without_gpu import missing

    if missing():
        pytest.skip(missing())
    monkeypatch.chdir(ROOT)
    target, told = "tests.inductor.fit.test_targets:deep_step", []
    with FitPlanner(target, "cuda", "", ["chunk_loss"], train_step=train_step) as planner:
        found = planner.fit(on_rung=told.append)
        planner.every_layer = True
        whole = {rung.setting: rung for rung in planner.fit().ladder.rungs}
    *before, chosen = found.ladder.rungs
    assert replace(chosen, graph="") == replace(whole[chosen.setting], graph="") and not chosen.estimated
    assert before and all(rung.estimated for rung in before)
    assert [rung.setting for rung in before] == list(whole)[: len(before)]
    for rung in before:
        assert rung.peak == pytest.approx(whole[rung.setting].peak, rel=0.03)
        assert rung.kernels == whole[rung.setting].kernels
    assert told == [*before, told[-2], chosen] and told[-2].estimated
    assert "estimated: from plans of the model with few of its layers" in str(found)


class Deep(nn.Module):
    """Twelve small blocks, and logits above them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(512, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
        self.head = nn.Linear(16, 512, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x).tanh()
        return nn.functional.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())


def deep_step() -> tuple[nn.Module, tuple[Tensor, Tensor], torch.optim.Optimizer]:
    """For `FitPlanner`."""
    model = Deep()
    return model, batch(), torch.optim.SGD(model.parameters(), 0.1)


@pytest.mark.plans
def test_whether_the_step_is_whole_may_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU too; asked for without an optimizer it is an error in one line."""
    from memsched.fitting import FitPlanner

    monkeypatch.chdir(ROOT)
    compiled = FitPlanner(
        "tests.inductor.fit.test_targets:trained_step", "cpu", "0.99x", ["chunk_loss"], train_step=False
    )
    assert not compiled.fit().train_step
    with pytest.raises(ValueError, match="returns no optimizer for train_step"):
        FitPlanner("tests.inductor.fit.test_targets:language_step", "cpu", "", ["auto"], train_step=True).fit()
    del tmp_path

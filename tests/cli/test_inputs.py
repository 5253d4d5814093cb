"""Steps as people have them: dictionaries, keyword arguments, files, models that print, models that need values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import memsched
from memsched.cli import main
from memsched.cli.command import EXIT_DONE
from memsched.core.sizes import InputError
from memsched.inductor.calls import batch_of
from memsched.inductor.capture.fakes import on_fakes

pytestmark = pytest.mark.plans

STEP = """
import torch
from torch import nn

class Labelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x, labels=None):
        self.seen += 1
        out = self.layers(x).tanh()
        return {"loss": (out - labels).square().mean(), "logits": out}

def step():
    print("building")
    return Labelled(), {"x": torch.randn(32, 64), "labels": torch.randn(32, 64)}

def needs_values():
    model = Labelled()
    model.layers.append(Rounded())
    return model, {"x": torch.randn(32, 64), "labels": torch.randn(32, 64)}

class Rounded(nn.Module):
    def forward(self, x):
        return x * int(x.sum().item() > 0)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "labelled.py").write_text(STEP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def explained(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main(["explain", *argv, "--quick", "--json"]) == EXIT_DONE
    return json.loads(capsys.readouterr().out)  # nothing else is on standard output


def test_a_file_a_dictionary_and_a_model_that_prints(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "labelled.py:step")
    assert [graph["kind"] for graph in found["graphs"]] == ["forward", "backward"]
    assert found == explained(capsys, "labelled:step")


def test_a_model_that_needs_values_runs_on_its_own_tensors(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "labelled:needs_values", "--allow-graph-breaks")
    assert len(found["graphs"]) > 2


class Labelled(nn.Module):
    """Returns a dictionary with its loss, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 64))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += 1
        out = self.layers(x)
        return {"loss": (out - labels).square().mean(), "logits": out}


def test_three_ways_to_call_are_one_step_and_leave_no_trace() -> None:
    """By position, by keyword, as one dictionary; and the loss by a function of output and target."""
    model = Labelled()
    x, labels = torch.randn(32, 64), torch.randn(32, 64)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    quick: dict[str, Any] = {"experiments": False, "stock": False}
    found = [
        memsched.explain(model, x, labels, **quick),
        memsched.explain(model, x, kwargs={"labels": labels}, **quick),
        memsched.explain(model, {"x": x, "labels": labels}, **quick),
    ]
    assert len({explanation.peak for explanation in found}) == 1
    by_function = memsched.explain(nn.Linear(64, 64), x, labels, loss_fn=nn.functional.mse_loss, **quick)
    assert [graph.kind for graph in by_function.graphs] == ["forward", "backward"]

    def of_batch(output: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.mse_loss(output, batch["wanted"])

    by_name = memsched.explain(nn.Linear(64, 64), {"input": x, "wanted": labels}, loss_fn=of_batch, **quick)
    assert by_name.peak == by_function.peak
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(one is another for one, another in zip(parameters, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in parameters)


def test_what_does_not_fit_into_memory_is_explained() -> None:
    """A terabyte of parameters and a batch to match: planned on fake tensors."""
    with on_fakes(nn.Linear(1, 1), ()), torch.device("cpu"):
        model, x = nn.Sequential(nn.Linear(2**19, 2**19), nn.Tanh(), nn.Linear(2**19, 1)), torch.empty(2**15, 2**19)
    found = memsched.explain(model, x, experiments=False, stock=False)
    assert found.peak > 2**38


def test_positional_and_keyword_arguments_that_do_not_go_together() -> None:
    with pytest.raises(InputError, match="does not take this batch: multiple values for argument 'x'"):
        batch_of(Labelled(), (torch.ones(2), torch.ones(2)), {"x": torch.ones(2)})

"""Explanations where people are: when a device is full, in a notebook, in a file, in the Trainer's logs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import memsched
from memsched.callbacks import figures_of
from memsched.core.graph import Graph
from memsched.files.fields import FormatError
from memsched.out_of_memory import is_out_of_memory
from memsched.records.report import GraphKind, GraphReport
from memsched.render.shown import ShownExplanation
from memsched.search.solver import solve
from tests.core.test_graph import diamond

pytestmark = pytest.mark.plans


class Squared(nn.Module):
    """Two layers and a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).square().mean()


@pytest.fixture(scope="module")
def found() -> ShownExplanation:
    return memsched.explain(Squared(), torch.randn(64, 32), experiments=False)


def full() -> None:
    """What a GPU without room raises."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def test_out_of_memory_is_explained_and_raised_again() -> None:
    told = io.StringIO()
    tried = pytest.raises(torch.OutOfMemoryError, match="Tried to allocate")
    with tried, memsched.explain_oom(Squared(), torch.randn(64, 32), file=told):
        full()
    assert "peak" in told.getvalue() and "test_out_of_memory.py" in told.getvalue()


def test_a_step_that_cannot_be_explained_does_not_hide_the_error() -> None:
    told = io.StringIO()
    with pytest.raises(torch.OutOfMemoryError), memsched.explain_oom(Squared(), "no tensor", file=told):
        full()
    assert "cannot be explained" in told.getvalue().splitlines()[-1]


def test_other_errors_and_no_error_say_nothing() -> None:
    told = io.StringIO()
    with pytest.raises(ValueError, match="something else"), memsched.explain_oom(Squared(), file=told):
        raise ValueError("something else")
    with memsched.explain_oom(Squared(), file=told):
        pass
    assert not told.getvalue()


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_out_of_memory_is(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one


def test_a_notebook_shows_the_page_in_a_frame(found: ShownExplanation) -> None:
    shown = found._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "<script>" not in shown, "the page is escaped"


def test_an_explanation_is_saved_in_each_of_its_forms(found: ShownExplanation, tmp_path: Path) -> None:
    for name in ("out.html", "out.json", "out.txt"):
        found.save(str(tmp_path / name))
    assert (tmp_path / "out.html").read_text().startswith("<!DOCTYPE html>")
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(found.to_json()))
    assert (tmp_path / "out.txt").read_text() == f"{found}\n"
    with pytest.raises(FormatError, match=r"must end in \.html"):
        found.save(str(tmp_path / "out.pdf"))


def test_a_summary_is_the_answer_and_returns_everything(capsys: pytest.CaptureFixture[str]) -> None:
    found = memsched.summary(Squared(), torch.randn(64, 32))
    assert capsys.readouterr().out == f"{found.answer}\n"
    assert not found.experiments and len(found.answer.splitlines()) <= 40


def test_what_a_trainer_logs_of_a_graph() -> None:
    """MiB under names that loggers group by their slashes; a graph that was left to stock has no plan to log."""
    graph: Graph = diamond()
    report = GraphReport.planned(
        graph, solve(graph), name="backward 0", kind=GraphKind.BACKWARD, stock_peak=2 * 2**20, kernels=4
    )
    assert figures_of(report)["memsched/backward 0/stock_peak_MiB"] == 2.0
    assert set(figures_of(report)) == {
        f"memsched/backward 0/{what}" for what in ("peak_MiB", "stock_peak_MiB", "bound_MiB", "kernels")
    }
    assert figures_of(GraphReport.left_to_stock("forward 0", GraphKind.FORWARD, 3, 3, 0.0, "why")) == {}


def test_peaks_are_logged_by_trainers_alone() -> None:
    with pytest.raises(TypeError, match="of transformers or of Lightning, not Linear"):
        memsched.log_peaks(torch.nn.Linear(2, 2))

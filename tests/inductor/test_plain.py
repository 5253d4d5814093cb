"""memsched without its backend's name: plain options for `backend="inductor"`, and for all compiles of a process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor import config

import memsched
from bench.models import build

pytestmark = pytest.mark.plans


@pytest.fixture(autouse=True)
def _fresh(no_kernels: None) -> Iterator[None]:
    del no_kernels
    memsched.reset()
    yield
    memsched.uninstall()


def peaks(**how: Any) -> list[tuple[str, int, int]]:
    """Kind, peak and refused fusions of what one step compiles."""
    torch._dynamo.reset()
    memsched.reset()
    workload = build("contrastive", "small")
    torch.compile(workload.model, **how)(*workload.batch).backward()
    return [(report.kind, report.peak, report.fusions_refused) for report in memsched.reports()]


def test_plain_options_plan_as_the_backend_does() -> None:
    """The choices hold, too, though Inductor keeps those of the thread's first compile: fusions are refused."""
    torch.compile(nn.Linear(4, 4))(torch.randn(2, 4))
    backend = peaks(backend="memsched", options={"strict": True})
    assert any(refused for _, _, refused in backend)
    assert peaks(options=memsched.options(strict=True)) == backend
    assert peaks() == [], "and hold for that compile only"


def test_installed_for_every_compile_until_it_is_not() -> None:
    before = {name: getattr(config, name) for name in ("_post_fusion_custom_pass", "reorder_for_peak_memory")}
    memsched.install(strict=True)
    assert peaks() == peaks(backend="memsched", options={"strict": True})
    memsched.uninstall()
    assert peaks() == []
    assert {name: getattr(config, name) for name in before} == before


@pytest.mark.parametrize("given", [{"peak_budget": "0.5x"}, {"chunk_loss": "auto"}, {"nothing": 1}])
def test_what_plain_options_cannot_do_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="memsched: "):
        memsched.options(**given)


def test_passes_of_the_user_over_the_nodes_run_before_ours() -> None:
    """They were dropped without a word."""
    seen: list[str] = []

    def own(place: str) -> Any:
        def look(nodes: list[Any]) -> list[Any]:
            seen.append(place)
            return nodes

        return look

    passes = {"_pre_fusion_custom_pass": own("before"), "_post_fusion_custom_pass": own("after")}
    found = peaks(backend="memsched", options={"strict": True, **passes})
    assert len(found) == 2
    assert seen == ["before", "after"] * 2


def test_choices_of_the_user_are_told_not_to_be_used(caplog: pytest.LogCaptureFixture) -> None:
    from memsched.inductor.backend import _warn_once

    _warn_once.cache_clear()
    peaks(
        backend="memsched", options={"strict": True, "inductor_choices_class": torch._inductor.choices.InductorChoices}
    )
    assert sum("inductor_choices_class" in record.message for record in caplog.records) == 1

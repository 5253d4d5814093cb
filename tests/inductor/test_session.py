"""What happens inside a compile, seen without generating code: plans, promises, and every way to fail."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor.virtualized import V

import memsched
from bench.models import build, random_operators
from memsched.check.order import check_order
from memsched.core.peak import peak_bytes
from memsched.core.result import Schedule, Status
from memsched.inductor import backend, compat, extract, fusing, session
from memsched.inductor import ordered as ordered_nodes
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions, split_options
from memsched.inductor.plan_key import plan_key
from memsched.inductor.session import PlanningSession
from memsched.records.published import counters
from memsched.storage import order as ordered

pytestmark = pytest.mark.plans


@functools.cache
def plan(name: str, fusion: str = "plan") -> list[memsched.GraphReport]:
    """The plans of one of the demo's models at its smallest size; made once for all tests."""
    workload = build(name, "small")
    return plan_only(workload.model, workload.batch, BackendOptions(strict=True, fusion=fusion))


def plan_tiny(**options: Any) -> list[memsched.GraphReport]:
    """The plans of a model of one layer, made anew."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    return plan_only(model, [torch.randn(4, 8)], BackendOptions(**options))


@pytest.fixture(autouse=True)
def _forget() -> None:
    memsched.reset()


@pytest.mark.parametrize("name", ["moe", "contrastive", "traversal", "gpt"])
def test_plans_are_valid_never_above_stock_and_reported(name: str) -> None:
    reports = plan(name)
    assert [report.kind for report in reports] == ["forward", "backward"]
    for report in reports:
        assert report.graph is not None and report.schedule is not None
        check_order(report.graph, report.schedule.order)
        assert report.peak == peak_bytes(report.graph, report.schedule.order)
        assert report.lower_bound <= report.peak <= report.stock_peak
        assert report.emitted_peak == report.peak, "groups of C++ kernels are cut where they would add to it"
        assert (report.status == "optimal") == (report.peak == report.lower_bound)
        json.dumps(report.to_json())


def test_refused_fusions_lower_the_peak_where_weights_are_used_twice() -> None:
    """Two views through one tower: with stock's fusions the backward holds the inputs of many reductions."""
    stock = plan("contrastive", fusion="stock")[1]
    planned = plan("contrastive")[1]
    assert planned.fusions_refused > 0 == stock.fusions_refused
    assert planned.peak < stock.peak


class TestFallback:
    """Whatever fails, the compile goes on as stock would: one warning, a counter, the reason in the report."""

    @staticmethod
    def check(caplog: pytest.LogCaptureFixture, doing: str) -> None:
        with caplog.at_level(logging.WARNING, logger="memsched"):
            forward, backward = plan_tiny()
        assert "left to stock" in str(backward)
        assert doing in forward.fallback
        assert counters[doing] == 2
        assert torch._dynamo.utils.counters["memsched"][doing] >= 2
        assert len([r for r in caplog.records if r.name == "memsched"]) == 2, "one warning for each graph"

    def test_a_solver_that_raises(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        def broken(*_: object, **__: object) -> Schedule:
            raise MemoryError("out of memory")

        monkeypatch.setattr(fusing, "solve", broken)
        self.check(caplog, "planning before fusion")

    def test_a_wrong_order(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        def reversed_order(graph: Any, *_: object, **__: object) -> Schedule:
            order = tuple(reversed(range(len(graph))))
            return Schedule(order, 1 << 40, 0, Status.HEURISTIC, "wrong", 0.0)

        monkeypatch.setattr(ordered, "solve", reversed_order)
        with caplog.at_level(logging.WARNING, logger="memsched"):
            _, backward = plan_tiny(fusion="stock")
        assert "ordering after fusion: CheckError" in backward.fallback

    def test_an_order_above_stock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = ordered.solve

        def bloated(graph: Any, *args: Any, **kwargs: Any) -> Schedule:
            found = real(graph, *args, **kwargs)
            return Schedule(found.order, 1 << 40, 0, Status.HEURISTIC, "bloated", 0.0)

        monkeypatch.setattr(ordered, "solve", bloated)
        forward, _ = plan_tiny(fusion="stock")
        assert "of an order of Inductor's" in forward.fallback

    def test_an_order_that_the_replay_finds_above_stock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever peak was claimed for the order, it is judged by its own replay."""
        monkeypatch.setattr(ordered_nodes, "peak_bytes", lambda *_: 1 << 40)
        for report in plan_tiny(fusion="stock"):
            assert f"peak {1 << 40} is above the" in report.fallback

    def test_what_fails_last_leaves_the_groups_of_kernels_as_stock_has_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cut: list[object] = []

        def unknown(*_: object) -> Any:
            raise KeyError("origin")

        monkeypatch.setattr(session, "origins_of", unknown)
        monkeypatch.setattr(session, "cut_groups", lambda *arguments: cut.append(arguments))
        assert all("origin" in report.fallback for report in plan_tiny())
        assert not cut

    def test_what_fails_after_stock_s_fusions_were_chosen_leaves_the_nodes_as_they_were_fused(
        self, monkeypatch: pytest.MonkeyPatch, no_kernels: None
    ) -> None:
        """The scheduler then knows the nodes that stock fused; the ones that are returned must be its own again."""
        del no_kernels
        chosen: list[bool] = []
        real = PlanningSession._report

        def broken(self: PlanningSession, *arguments: Any) -> Any:
            chosen.append(self.fusing is None)
            real(self, *arguments)
            raise KeyError("origin")

        def same(self: PlanningSession, nodes: list[Any]) -> list[Any]:
            ordered = after(self, nodes)
            known = V.graph.scheduler.name_to_fused_node
            assert all(known[inner.get_name()] is node for node in ordered for inner in node.get_nodes())
            return ordered

        after = PlanningSession.after_fusion
        monkeypatch.setattr(PlanningSession, "_report", broken)
        monkeypatch.setattr(PlanningSession, "after_fusion", same)
        model, batch = random_operators.step(18)
        torch.compile(model, backend="memsched")(*batch).backward()
        assert True in chosen and all("origin" in report.fallback for report in memsched.reports())

    def test_sizes_that_inductor_does_not_agree_with(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def wrong(*_: object, **__: object) -> Any:
            raise extract.ExtractionError("graph: the extracted graph peaks at 1 bytes, Inductor estimates 2")

        monkeypatch.setattr(session, "extract_graph", wrong)
        assert "Inductor estimates 2" in plan_tiny()[0].fallback

    def test_a_compile_that_cannot_be_set_up(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, no_kernels: None
    ) -> None:
        """Stock compiles, and it is told once."""
        del no_kernels

        def broken(*_: object, **__: object) -> dict[str, Any]:
            raise AttributeError("a name that PyTorch has lost")

        monkeypatch.setattr(backend, "planning_patches", broken)
        before = counters.get("setting up the passes", 0)
        with caplog.at_level(logging.WARNING, logger="memsched"):
            torch.compile(torch.nn.Linear(4, 4), backend="memsched")(torch.randn(2, 4)).sum().backward()
        assert counters["setting up the passes"] == before + 1
        told = [record.getMessage() for record in caplog.records if record.name == "memsched"]
        assert len(told) == 1 and "a name that PyTorch has lost" in told[0]

    def test_strict_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> Schedule:
            raise MemoryError("out of memory")

        monkeypatch.setattr(fusing, "solve", broken)
        with pytest.raises(Exception, match="out of memory"):
            plan_tiny(strict=True)


@pytest.mark.parametrize(("version", "supported"), [("2.10.0", False), ("2.11.0", True), ("2.15.1+cu130", True)])
def test_versions(version: str, supported: bool) -> None:
    assert (compat.unsupported_reason(version) is None) == supported


def test_an_unsupported_torch_is_left_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from memsched.inductor import backend

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(backend, "unsupported_reason", lambda: "torch 3.0 is not between 2.11 and 2.15")
    monkeypatch.setattr(backend, "compile_fx", lambda *_, config_patches: asked.append(config_patches))
    with caplog.at_level(logging.WARNING, logger="memsched"):
        for _ in range(2):
            backend.memsched_backend(torch.fx.GraphModule({}, torch.fx.Graph()), [])
    assert asked == [{}, {}], "stock Inductor, without any of our passes"
    assert [record.message for record in caplog.records] == [
        "memsched: torch 3.0 is not between 2.11 and 2.15: stock Inductor compiles"
    ]
    with pytest.raises(RuntimeError, match="not between"):
        backend.memsched_backend(torch.fx.GraphModule({}, torch.fx.Graph()), [], options={"strict": True})


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"fusion": "none"}, "fusion is 'none'"),
        ({"time_limit_s": -1}, "time_limit_s is -1"),
        ({"time_limit_s": "5"}, "time_limit_s is '5'"),
        ({"strict": 1}, "strict is 1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"fuson": "plan"}, "'fuson' is unknown"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        split_options(options)


def test_options_come_from_the_environment_and_from_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSCHED_TIME_LIMIT_S", "7.5")
    monkeypatch.setenv("MEMSCHED_STRICT", "1")
    own, inductor = split_options({"max_autotune": True, "time_limit_s": 3})
    assert (own.time_limit_s, own.strict, inductor) == (3, True, {"max_autotune": True})
    monkeypatch.setenv("MEMSCHED_STRICT", "perhaps")
    with pytest.raises(ValueError, match="MEMSCHED_STRICT is 'perhaps'"):
        split_options({})


def test_the_cache_key_changes_with_every_option() -> None:
    keys = [plan_key(o) for o in (BackendOptions(), BackendOptions(seed=1), BackendOptions(fusion="stock"))]
    assert len(set(keys)) == 3
    assert plan_key(BackendOptions()) == keys[0]


def test_the_cache_key_changes_with_the_number_of_threads() -> None:
    """What an operator allocates for each thread is in the plan."""
    threads = torch.get_num_threads()
    key = plan_key(BackendOptions())
    try:
        torch.set_num_threads(threads + 1)
        assert plan_key(BackendOptions()) != key
    finally:
        torch.set_num_threads(threads)


_PLAN_AND_PRINT = """
import hashlib, torch
from bench.models.moe import MoELayer
from memsched.inductor.capture.plan_only import plan_only
torch.manual_seed(0)
model = MoELayer(16, 32, 4)
for report in plan_only(lambda x: model(x).square().mean(), [torch.randn(2, 8, 16)]):
    print(report.kind, report.peak, hashlib.sha256(repr(report.schedule.order).encode()).hexdigest())
"""


def test_the_same_plan_for_every_hash_seed() -> None:
    """Ranks of one job plan for themselves: they must agree, or collectives would meet in different orders."""
    outputs = set()
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", _PLAN_AND_PRINT], capture_output=True, text=True, env=environment, check=True
        )
        outputs.add(run.stdout)
    assert len(outputs) == 1, hashlib.sha256("".join(sorted(outputs)).encode()).hexdigest()


@pytest.mark.parametrize("on", [True, False])
def test_no_garbage_is_collected_while_a_graph_is_planned(monkeypatch: pytest.MonkeyPatch, on: bool) -> None:
    """A full collection of the compiler's heap takes as long as planning; afterwards it is as the user had it."""
    seen: list[bool] = []
    real = ordered.order_under

    def watching(*args: Any, **how: Any) -> Any:
        seen.append(gc.isenabled())
        return real(*args, **how)

    monkeypatch.setattr(ordered_nodes, "order_under", watching)
    (gc.enable if on else gc.disable)()
    try:
        plan_only(nn.Linear(4, 4), (torch.randn(2, 4),))
        assert seen and not any(seen)
        assert gc.isenabled() is on
    finally:
        gc.enable()

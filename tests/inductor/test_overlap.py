"""Collectives in a plan: one order on all ranks, waits free, and Inductor's overlap passes within the plan's bytes.

x ──> mm1 ──> mm2 ──> ...          every weight is gathered from four ranks, used once, and gone
      ^       ^
  gather1  gather2
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch import Tensor
from torch._inductor.utils import fresh_cache
from torch.testing._internal.distributed.fake_pg import FakeStore

import memsched
from memsched.inductor import overlap
from memsched.inductor.bytes.measure import trace_memory
from memsched.inductor.observe import ObservingPass
from memsched.inductor.ordered import OrderedNodes
from memsched.records.published import counters

pytestmark = pytest.mark.plans

RANKS, WIDTH, LAYERS = 4, 256, 6
GATHERED = WIDTH * WIDTH * 4
PASSES: dict[str, list[Any]] = {
    "none": [],
    "raise": ["raise_comms", "sink_waits"],
    "compute beside": ["reorder_compute_for_overlap"],
    "keeping the peak": ["sink_waits_iterative", "reorder_communication_preserving_peak_memory"],
}


@pytest.fixture(autouse=True)
def _one_of_four_ranks(no_kernels: None) -> Iterator[None]:
    """Collectives that only allocate their results."""
    del no_kernels
    memsched.reset()
    dist.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    with fresh_cache():
        yield
    dist.destroy_process_group()


def network(x: Tensor, *shards: Tensor) -> Tensor:
    for shard in shards:
        weight = collectives.all_gather_tensor(shard, 0, dist.group.WORLD)
        x = torch.relu(x @ weight)
    return x


def batch() -> list[Tensor]:
    return [torch.randn(64, WIDTH), *(torch.randn(WIDTH // RANKS, WIDTH) for _ in range(LAYERS))]


def overlapping(passes: Sequence[Any]) -> dict[str, Any]:
    name = "reorder_for_compute_comm_overlap"
    return {name: bool(passes), f"{name}_passes": list(passes)}


def measured(call: Callable[..., Any]) -> int:
    """Bytes that a call needs above its inputs, once it is compiled."""
    inputs = batch()
    with torch.no_grad():
        call(*inputs)
        return trace_memory(lambda: call(*inputs)).peak


def compiled(options: dict[str, Any], backend: str = "memsched") -> Callable[..., Any]:
    torch._dynamo.reset()
    call: Callable[..., Any] = torch.compile(network, backend=backend, options=options)
    return call


def test_a_wait_follows_its_collective_only_so_weights_are_gathered_one_at_a_time() -> None:
    """All gathers stand first in the traced graph; a wait that kept its place among them would keep all six alive."""
    stock = measured(compiled({}, "inductor"))
    ours = measured(compiled({"strict": True}))
    assert ours <= stock < 2 * GATHERED


@pytest.mark.parametrize("passes", PASSES)
def test_with_overlap_passes_the_report_tells_what_runs_and_never_more_than_stock_with_them(passes: str) -> None:
    stock: list[memsched.GraphReport] = []
    asked = overlapping(PASSES[passes])
    of_stock = measured(compiled(asked | {"_post_fusion_custom_pass": ObservingPass(stock.append)}, "inductor"))
    ours = measured(compiled(asked | {"strict": True}))
    (report,) = memsched.reports()
    assert report.graph is not None
    assert ours == report.emitted_peak - report.graph.start_bytes
    assert ours <= of_stock
    assert report.stock_peak == stock[0].peak
    assert report.lower_bound <= 2 * GATHERED  # of every order, whatever the passes have made of the plan's


@pytest.mark.parametrize("gathered", [2, 3, 4])
def test_edges_keep_what_passes_move_within_a_limit(gathered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six gathers would come first; at most as many are early as the limit has room for, and never fewer than one."""
    plans: list[tuple[OrderedNodes, OrderedNodes]] = []
    limit = gathered * GATHERED

    def within(_: int, plan: OrderedNodes) -> OrderedNodes:
        plans.append((plan, overlap.moved_within(limit, plan)))
        return plans[-1][1]

    monkeypatch.setattr("memsched.inductor.session.moved_within", within)
    of_wrapper = measured(compiled(overlapping(PASSES["raise"]) | {"strict": True}))
    ((plan, moved),) = plans
    assert of_wrapper <= limit
    assert moved.emitted_peak <= limit < moved.emitted_peak + GATHERED  # one more would not fit
    assert plan.emitted_peak <= moved.emitted_peak
    assert gathers_of(moved) == gathers_of(plan)  # one order on all ranks
    assert all(not isinstance(one, overlap.WeakDep) or one.is_fake for n in moved.nodes for one in n.unmet_dependencies)


def gathers_of(plan: OrderedNodes) -> list[str]:
    names = [node.get_name() for node in plan.in_order() if overlap.contains_collective(node)]
    assert len(names) == LAYERS
    return names


def test_passes_that_ignore_the_edges_leave_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of the user's that puts all collectives first, whatever they wait for."""

    def collectives_first(nodes: list[Any]) -> list[Any]:
        return sorted(nodes, key=lambda node: not overlap.contains_collective(node))

    monkeypatch.setattr("memsched.inductor.session.moved_within", lambda _, plan: overlap.moved_within(0, plan))
    of_wrapper = measured(compiled(overlapping([collectives_first]) | {"strict": True}))
    assert of_wrapper < 2 * GATHERED


def test_where_planning_fails_stock_s_passes_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("planning fails")

    asked = overlapping(PASSES["raise"])
    of_stock = measured(compiled(asked, "inductor"))
    monkeypatch.setattr("memsched.inductor.ordered.order_under", fail)
    assert measured(compiled(asked)) == of_stock > LAYERS * GATHERED - 1
    assert sum(counters.values()) == 1

"""The fusions of one graph: a low order of the nodes before fusion, and the answers that keep it low.

nodes before fusion ──> graph, what may be written over what ──> a low order, whose peak is the budget
Inductor asks: may these two fuse? ──> will they be one loop? does the contracted order keep the budget?
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from memsched.core.graph import Graph
from memsched.core.result import Options, Schedule
from memsched.fusion.in_place import InPlace, Overwrite
from memsched.fusion.planner import FusionPlanner
from memsched.inductor.options import NEGLIGIBLE, BackendOptions
from memsched.inductor.storages.build import unfused_model
from memsched.inductor.storages.local_buffers import cpp_reductions
from memsched.inductor.storages.outer_loops import OuterLoops, bytes_between
from memsched.records.fusion import MadeFusion, RefusedFusion
from memsched.search.orders.inductor import priority_order, stock_orders
from memsched.search.solver import solve
from memsched.storage.model import AllocationModel

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode, Scheduler

__all__ = ["FusionPlan"]

_LOCAL_SHARE = 0.45
"""Of the work of a graph, for local search before fusion."""
_WIDE = 0.05
"""A gap that is worth all of it."""


class FusionPlan:
    """A planner for the nodes of `scheduler` before fusion; op i of `graph` is nodes[i].

    Behind those the planner has ops that allocate concatenations, about which nobody asks.

    solver_options(share, method): the limits of a search.
    refused: whether any question was answered with no.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Sequence[BaseSchedulerNode],
        scheduler: Scheduler,
        options: BackendOptions,
        solver_options: Callable[[float, str], Options],
    ) -> None:
        model = unfused_model(graph, nodes, measure_scratch=options.measure_scratch)
        order = model.without_allocations(_low_order(model.planning_graph(), solver_options).order)
        storages = model.storages_of_fused()
        position = {buffer.name: at for at, buffer in enumerate(storages.buffers)}
        over = {
            position[one.output]: Overwrite(position[one.input], one.beside)
            for one in model.taken_by(order)
            if one.output in position and one.input in position
        }
        self._note = ""
        self.planner = FusionPlanner(
            storages,
            model.with_allocations(order),
            self._budget(model, model.peak(order), options),
            max_extra_kernels=options.max_extra_kernels,
            in_place=InPlace(storages, over, cpp_reductions(nodes)),
            falls=options.fusion == "plan" and options.max_extra_kernels is None,
        )
        self.refused = False
        self._scheduler: Scheduler = weakref.proxy(scheduler)
        self._loops = OuterLoops.of_this_graph()
        self._op_of_name = {name: at for at, node in enumerate(nodes) for name in node.get_operation_names()}
        self._name_of_op = [node.get_first_name() for node in nodes]
        self._approved: tuple[list[int], list[int]] | None = None

    def _budget(self, model: AllocationModel, planned_peak: int, options: BackendOptions) -> int:
        """The bytes that fusions may need; a budget below the plan's own peak cannot be kept, whatever is refused."""
        if options.fusion == "plan":
            return int(planned_peak * (1 + options.fusion_slack))
        wanted = options.budget_bytes(min(map(model.peak, stock_orders(model.estimate).values())))
        if wanted < planned_peak:
            self._note = f"no order was found within the budget of {wanted} bytes, the plan needs {planned_peak}"
        return max(planned_peak, wanted)

    def may_fuse(self, first: BaseSchedulerNode, second: BaseSchedulerNode, shared: int) -> bool:
        """Whether the plan has room for this fusion; shared: bytes that both nodes touch, as Inductor counts them.

        Loops that code generation would take apart again are not fused where that makes rows whole buffers.
        """
        answer = self._rows_stay_rows(first, second) and self._judge(first, second, shared)
        self.refused |= not answer
        return answer

    def _rows_stay_rows(self, first: BaseSchedulerNode, second: BaseSchedulerNode) -> bool:
        """Whether what the fused kernel alone would read is kept in it, or is next to nothing."""
        negligible = self.planner.budget * NEGLIGIBLE
        # The bytes first: they cost little, the loops are worked out as code generation would.
        return bytes_between(first, second) <= negligible or self._loops.would_be_one(first, second)

    def _judge(self, first: BaseSchedulerNode, second: BaseSchedulerNode, shared: int) -> bool:
        """Ask the planner, after telling it whether Inductor made the fusion that it approved last.

        It does not say when it fuses; only the last approval can have been followed by a fusion.
        """
        if self._approved is not None:
            ops, other = self._approved
            if self._fused_node(ops[0]) is self._fused_node(other[0]):
                self.planner.fuse([*ops, *other])
        ops, other = self._ops(first), self._ops(second)
        answer = self.planner.may_fuse(ops, other, shared)
        self._approved = (ops, other) if answer and ops and other else None
        return answer

    def _fused_node(self, op: int) -> BaseSchedulerNode:
        return self._scheduler.name_to_fused_node[self._name_of_op[op]]

    def order_of(self, graph: Graph, nodes: Sequence[BaseSchedulerNode]) -> tuple[int, ...]:
        """The fused nodes in the order that the planner has for them, as far as `graph`, which says more, allows it."""
        for node in nodes:
            self.planner.fuse(self._ops(node))
        position = {op: at for at, ops in enumerate(self.planner.order()) for op in ops}
        return priority_order(graph, [max(map(position.__getitem__, self._ops(node)), default=0) for node in nodes])

    def _ops(self, node: BaseSchedulerNode) -> list[int]:
        return sorted({self._op_of_name[name] for name in node.get_operation_names() if name in self._op_of_name})

    def notes(self) -> Iterator[str]:
        """What the user should know about the fusions beside the figures."""
        yield self._note
        if self.planner.exhausted:
            yield "the fusions were judged until their work limit, then accepted, but for those of near ops"

    def refusals(self) -> tuple[RefusedFusion, ...]:
        """The refusals that stand at the end, by the names of the ops."""
        return tuple(
            RefusedFusion(self._names(one.ops), self._names(one.other), one.price, one.traffic, one.vertical)
            for one in self.planner.standing_refusals()
        )

    def fusions(self) -> tuple[MadeFusion, ...]:
        """The fusions that were made, by the names of the ops."""
        made = self.planner.made
        return tuple(MadeFusion(self._names(m.ops), self._names(m.other), m.traffic, m.peak_change) for m in made)

    def _names(self, ops: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._name_of_op[op] for op in ops)


def _low_order(graph: Graph, solver_options: Callable[[float, str], Options]) -> Schedule:
    """A low order before fusion, which needs no proof: local search, unless a short exact search closes the gap.

    The less there is to win, the less work: all that local search may do from a gap of `_WIDE` on.
    """
    exact = solve(graph, solver_options(0.05, "valley"))
    gap = exact.peak / max(1, exact.lower_bound) - 1
    if gap <= NEGLIGIBLE:
        return exact
    share = _LOCAL_SHARE * min(1.0, gap / _WIDE)
    return solve(graph, solver_options(share, "local"), start_orders=[exact.order])

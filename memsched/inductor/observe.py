"""A pass that changes nothing and reports what stock Inductor does, in the same terms as memsched's own reports.

    torch.compile(model, options={"_post_fusion_custom_pass": ObservingPass()})

The nodes after stock's fusion, in the order that stock's own peak-memory reorder will choose for them, become a
`GraphReport`: so a table can put stock's modelled peak and its kernels beside memsched's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from torch._inductor.virtualized import V

from memsched.core.peak import peak_bytes
from memsched.core.result import Schedule, Status
from memsched.inductor.compat import SchedulerPass
from memsched.inductor.extract import extract_graph
from memsched.inductor.flops import flops_of
from memsched.inductor.host import graph_kind, graph_name, num_kernels, stock_reorder
from memsched.inductor.origins import origins_of
from memsched.inductor.publish import Sink
from memsched.inductor.rewrites.offload import moved_bytes_of
from memsched.inductor.storages.build import model_of
from memsched.inductor.storages.emissions import emissions
from memsched.records.published import add_report
from memsched.records.report import GraphReport
from memsched.storage.kernel_groups import grouped_peak

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["ObservingPass"]


class ObservingPass(SchedulerPass):  # type: ignore[misc]
    """Reports the graph after stock's fusion and stock's order of it to `sink`; returns the nodes as they came.

    measure_scratch: as in `memsched.inductor.options`.
    """

    def __init__(self, sink: Sink = add_report, *, measure_scratch: bool = True) -> None:
        self.sink = sink
        self.measure_scratch = measure_scratch

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        if not nodes:
            return nodes
        started = time.thread_time()
        name = graph_name()
        graph = extract_graph(nodes, name, "postfusion")
        model = model_of(graph, nodes, measure_scratch=self.measure_scratch)
        index = {node: at for at, node in enumerate(nodes)}
        order = tuple(index[node] for node in stock_reorder(nodes))
        graph = model.graph_for(order)
        peak = peak_bytes(graph, order)
        seconds = time.thread_time() - started
        emitted_peak = grouped_peak(graph, order, emissions(nodes))
        schedule = Schedule(order, peak, 0, Status.HEURISTIC, "stock", seconds)
        self.sink(
            GraphReport.planned(
                graph,
                schedule,
                name=name,
                kind=graph_kind(),
                ops=len(nodes),
                stock_peak=emitted_peak,
                emitted_peak=emitted_peak,
                kernels=num_kernels(nodes),
                stock_kernels=num_kernels(nodes),
                flops=flops_of(V.graph.module),
                moved=moved_bytes_of(V.graph.module),
                origins=origins_of(graph),
            )
        )
        return nodes

    def uuid(self) -> str:
        return "memsched observes"

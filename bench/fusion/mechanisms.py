"""Why fusion raises the peak: each mechanism switched off by itself, on the same traced graphs (pytorch#193193).

    python -m bench mechanisms contrastive                 CPU plan, no compiler needed
    python -m bench mechanisms contrastive --cuda          CUDA plan at a realistic size, without a GPU
    python -m bench mechanisms --captured cuda_two_ac.bwd  a graph captured on the CUDA plan, without torch
    python -m bench mechanisms --tables                    the tables of all results so far

A model is traced once; every graph of it is then lowered, fused and ordered under each rule:

    stock            as it is
    no waiting       refuses a reduction whose consumer waits for something that the reduction does not wait for
    no horizontal    refuses all fusions of nodes that do not depend on each other
    neither          both of these blunt rules
    2.15's guard     refuses what raises the peak of the order that Inductor has before fusion (pytorch#190344)
    memsched         refuses what no order that it finds has room for; "plan's order": without looking for another one

After each the peak is told twice: in the order in which Inductor's sort leaves the nodes, by their first member, and in
the best order, which is of Inductor's four for the first five rules.  "by place" is stock's fusions, sorted by the same
places with a priority list instead of depth first.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench.fusion.mechanisms_captured import rules_on_captured
from bench.fusion.mechanisms_table import REFUSALS_SHOWN, refusals_table, rules_table
from bench.paths import INSTANCES, RESULTS
from memsched.core.graph import Graph
from memsched.core.peak import peak_bytes
from memsched.files.json_file import atomic_write
from memsched.fusion.contract import kernels_of
from memsched.records.report import GraphReport
from memsched.search.orders.inductor import priority_order, stock_orders

__all__ = ["main", "rules_on_cuda"]

_MODELS = ("contrastive", "traversal", "moe")

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Plan one model under every rule and add it to the results, or print the tables of all."""
    parser = argparse.ArgumentParser(prog="python -m bench mechanisms", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of bench.models (in the table: {_MODELS})")
    parser.add_argument("--cuda", action="store_true", help="lower for CUDA, without a GPU")
    parser.add_argument("--captured", action="store_true", help="MODEL is a pair of bench/instances; no torch needed")
    parser.add_argument("--size", choices=("small", "cpu", "cuda"), help="of the model (default: of the device)")
    parser.add_argument("--rules", nargs="+", metavar="RULE", help="only these (default: all of them)")
    parser.add_argument("--tables", action="store_true", help="write and print the tables of all results")
    arguments = parser.parse_args(argv)
    device = "cuda" if arguments.cuda else "cpu"
    path = RESULTS / "mechanisms.json"
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    for model in arguments.models:
        size = arguments.size or device
        if arguments.captured:
            device, size = ("cuda" if model.startswith("cuda") else "cpu"), "captured"
            new = rules_on_captured(INSTANCES, model)
        else:
            new = (_rows_on_cuda if arguments.cuda else rules_on_cpu)(model, size, arguments.rules)
        done = {(model, device, size, row["rule"]) for row in new}
        rows = [row for row in rows if (row["model"], row["device"], row["size"], row["rule"]) not in done]
        rows += [{"model": model, "device": device, "size": size, **row} for row in new]
        print(rules_table([row for row in rows if row["model"] == model and row["device"] == device]), end="")
        atomic_write(path, (json.dumps(rows, indent=1) + "\n").encode())
    if arguments.tables or not arguments.models:
        text = rules_table(rows) + "\n" + refusals_table(rows)
        atomic_write(RESULTS / "mechanisms.md", text.encode())
        print(text, end="")
    return 0


def rules_on_cpu(model: str, size: str, rules: Sequence[str] | None = None) -> list[Row]:
    """The rows of one model lowered for the CPU: traced once, and stopped before code generation."""
    from torch.fx import GraphModule

    from bench.fusion.mechanisms_rules import ways
    from bench.models import build
    from memsched.inductor.capture.lower import lower, run_uncompiled

    workload = build(model, size)
    rows: list[Row] = []

    def compile_graph(gm: Any, example_inputs: Sequence[Any], **how: Any) -> None:
        for way in ways(rules):
            reports = lower(way, GraphModule(gm, copy.deepcopy(gm.graph)), example_inputs, how)
            before = way.patches["_pre_fusion_custom_pass"].graph
            rows.extend(row_of(way.name, before, report) for report in reports)

    run_uncompiled(workload.model, workload.batch, compile_graph)
    return rows


def _rows_on_cuda(model: str, size: str, rules: Sequence[str] | None) -> list[Row]:
    from memsched.inductor.cuda_without_gpu import CudaWorker

    with CudaWorker() as worker:
        rows: list[Row] = worker.call("bench.fusion.mechanisms:rules_on_cuda", model, size, rules, progress=_progress)
    return rows


def rules_on_cuda(model: str, size: str, rules: Sequence[str] | None = None) -> list[Row]:
    """The rows of one model lowered for CUDA; called in a worker (`memsched.inductor.cuda_without_gpu`)."""
    from bench.fusion.mechanisms_rules import ways
    from memsched.inductor.cuda_without_gpu.capture import capture_step
    from memsched.inductor.cuda_without_gpu.pretend import Gpu, pretend_gpu
    from memsched.inductor.cuda_without_gpu.worker import report_progress, show_device
    from memsched.inductor.questions.fake_step import build_step

    with pretend_gpu(show_device, Gpu()):
        step = build_step("bench.models:build", {"name": model, "size": size}, "cuda")
        chosen = ways(rules)
        captured, _ = capture_step(step, chosen, progress=report_progress)
    return [
        {**row_of(way.name, graph.prefusion, graph.report), "replayed": graph.replayed}
        for way, graphs in zip(chosen, captured, strict=True)
        for graph in graphs
    ]


def row_of(rule: str, before: Graph | None, report: GraphReport) -> Row:
    """What a rule makes of one graph, as plain values: bytes, kernels, and the dearest refusals with their kinds."""
    assert before is not None and report.graph is not None
    kernels = kernels_of(before, report.graph)
    by_place = priority_order(report.graph, [min(ops) for ops in kernels])
    return {
        "rule": rule,
        "graph": report.name,
        "before": peak_bytes(before, before.topological_order),
        "before_best": min(peak_bytes(before, order) for order in stock_orders(before).values()),
        "incoming": peak_bytes(report.graph, report.graph.topological_order),
        "by_place": peak_bytes(report.graph, by_place),
        "peak": report.peak,
        "lower_bound": report.lower_bound,
        "kernels": report.kernels,
        "refusals": [_refusal(before, report, refusal) for refusal in report.refusals[:REFUSALS_SHOWN]],
        "num_refusals": len(report.refusals),
    }


def _refusal(before: Graph, report: GraphReport, refusal: Any) -> Mapping[str, Any]:
    index = {op.name: at for at, op in enumerate(before.ops)}
    ops, other = [index[name] for name in refusal.ops], [index[name] for name in refusal.other]
    kind = "horizontal"
    if refusal.vertical:
        first, second = (ops, other) if max(ops) in _ancestors(before, other) else (other, ops)
        waits = _ancestors(before, second) - _ancestors(before, first) - set(first)
        kind = "waiting" if waits else "vertical"
    return {
        "kind": kind,
        "ops": "_".join(refusal.ops),
        "other": "_".join(refusal.other),
        "price": refusal.price,
        "traffic": refusal.traffic,
        "what": _what(report, refusal.ops),
        "with": _what(report, refusal.other),
    }


def _ancestors(graph: Graph, ops: Sequence[int]) -> set[int]:
    found: set[int] = set()
    stack = list(ops)
    while stack:
        for before in graph.predecessors[stack.pop()]:
            if before not in found:
                found.add(before)
                stack.append(before)
    return found - set(ops)


def _what(report: GraphReport, names: Sequence[str]) -> str:
    """The operator and the module of the largest buffer that the kernel of these ops writes."""
    assert report.graph is not None
    wanted = set(names)
    owned = {at for at, op in enumerate(report.graph.ops) if wanted & set(op.name.split("_"))}
    buffers = [buffer for buffer in report.graph.buffers if buffer.producer in owned]
    known = [buffer for buffer in buffers if buffer.name in report.origins]
    if not known:
        return ""
    origin = report.origins[max(known, key=lambda buffer: buffer.size).name]
    return f"{origin.operator} {origin.module}".strip()


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""Saved tensors wait in the memory of the host: copied there in the forward, and back in the backward.

    forward   x1 = block(x0) ──> cpu_x1 = device_put(x1, cpu)         saved: cpu_x1; x1 dies with its last reader
    backward  x1 = device_put(cpu_x1, cuda) ──> gradient of block     alive on the GPU from here to its last reader

The copies are PyTorch's own (`enable_activation_offloading`, torch/_functorch/_activation_offloading/
activation_offloading.py), which has no rule for what is copied.  Here it is the first tensors that the forward saves,
until they are a share of the bytes: their backward comes last, so they wait longest.  What PyTorch does not copy stays:
inputs, results of the model, views, pieces of a tuple, tensors that are not contiguous, and what is on the CPU already.

Both copies run where the ops around them do, so what they take is added to the step; nothing is claimed of a copy that
runs beside a product.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx
from torch._functorch import config as functorch_config
from torch.utils._ordered_set import OrderedSet

from memsched.inductor.rewrites.nodes import bytes_of, is_view

__all__ = ["moved_bytes_of", "offload_saved"]


def offload_saved(forward: fx.GraphModule, backward: fx.GraphModule, num_results: int, share: float) -> list[fx.Node]:
    """Let the first tensors that `forward` saves wait on the CPU, until they are `share` of the bytes; those tensors.

    num_results: how many outputs of the forward are results of the model; behind them is what is saved.
    Both graphs are changed, or after an error one of them.
    """
    from torch._functorch._activation_offloading.activation_offloading import enable_activation_offloading

    chosen = _first_saved(forward.graph, num_results, share)
    for node in chosen:
        node.meta["should_offload"] = True
    # On a stream of their own the copies free what they have read behind the plan's back.
    with functorch_config.patch({"activation_offload_separate_stream": False}):
        enable_activation_offloading(forward, backward, num_results, OrderedSet())
    return chosen


def moved_bytes_of(module: fx.GraphModule) -> int:
    """Bytes that one call of `module` copies between the CPU and a GPU, by the shapes in the `meta` of its nodes."""
    copies = module.graph.find_nodes(op="call_function", target=torch.ops.prims.device_put.default)
    return sum(bytes_of(node) for node in copies if _device(node) != _device(node.args[0]))


def _device(node: fx.Node) -> str:
    """The kind of device that a tensor is on; "" for what is no tensor."""
    value = node.meta.get("val")
    return value.device.type if isinstance(value, Tensor) else ""


def _first_saved(graph: fx.Graph, num_results: int, share: float) -> list[fx.Node]:
    """Of what can be copied, in the order of the forward, the first until they are `share` of the bytes."""
    outputs = graph.output_node().args[0]
    assert isinstance(outputs, (list, tuple))
    saved = set(outputs[num_results:]) - set(outputs[:num_results])
    able = [node for node in graph.nodes if node in saved and _can_wait(node)]
    left = share * sum(map(bytes_of, able))
    chosen: list[fx.Node] = []
    for node in able:
        if left <= 0:
            break
        chosen.append(node)
        left -= bytes_of(node)
    return chosen


def _can_wait(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is operator.getitem or is_view(node):
        return False
    return _device(node) not in ("", "cpu", "meta") and bool(node.meta["val"].is_contiguous())

"""The forward and the backward of a model as one graph, exactly as stock Inductor would have compiled the two.

Dynamo hands over the forward up to the loss, its parameters lifted to inputs.  `compile_fx` does with it what it always
does (decompositions, joint-graph passes, the min-cut partitioner with its recomputation, checkpoints, random numbers),
but its inner compiler, which would be called once for the forward and once for the backward, only keeps the graphs:

    forward:  primals ──> loss, saved          backward:  saved, tangent ──> gradients
                                    ╲                     ╱
    joined:   primals ──> loss, saved ──────────────────> gradients        tangent = 1

So what is recomputed is what stock recomputes, and nothing depends on what only autograd's engine would know.  What is
saved stays a buffer (`rewrites.realize`): inlined into the backward, it would keep its own inputs alive instead.  The
alternative, `torch._dynamo.compiled_autograd` with a hook per parameter, plans only the backward, traces it a second
time through Dynamo, and lifts sizes to symbols; docs/train-step.md has the comparison.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._functorch.config as functorch_config
from torch import Tensor, fx
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.compile_fx import compile_fx
from torch._subclasses.fake_tensor import FakeTensorMode

from memsched.inductor.rewrites.realize import realized
from memsched.inductor.train_step.refusals import Refusal

__all__ = ["TANGENT", "Captured", "capture"]

aten = torch.ops.aten

TANGENT = "memsched_tangent"
"""In the `meta` of the node that is the gradient of the loss by itself."""


@dataclass
class Captured:
    """One forward and backward: a graph whose output is (outputs of the model, gradients of its inputs).

    graph: ends in an `output` node of that pair of tuples; writes to buffers (`copy_`) are its last nodes before it.
    attributes: the subgraphs and constants that `get_attr` nodes name.
    inputs: the fake inputs, as many as placeholders.
    """

    graph: fx.Graph
    attributes: dict[str, Any]
    inputs: list[Any]
    fake_mode: FakeTensorMode

    @property
    def outputs(self) -> tuple[list[fx.Node], list[fx.Node | None]]:
        """The outputs of the model, loss first; and for each input its gradient, or None."""
        outputs, gradients = self.graph.output_node().args[0]  # type: ignore[misc]
        return list(outputs), list(gradients)  # type: ignore[arg-type]

    def copy(self) -> Captured:
        """The same graph to be changed; values and attributes are shared."""
        return Captured(copy.deepcopy(self.graph), dict(self.attributes), list(self.inputs), self.fake_mode)


@dataclass
class _Graphs:
    """What the inner compiler was called with."""

    forward: fx.GraphModule | None = None
    backward: fx.GraphModule | None = None
    inputs: Sequence[Any] = field(default_factory=list)

    def keep(self, gm: fx.GraphModule, example_inputs: Sequence[Any], **options: Any) -> Any:
        """An inner compiler that compiles nothing."""
        if options.get("is_backward"):
            self.backward = gm
        else:
            self.forward, self.inputs = gm, list(example_inputs)
        return make_boxed_func(gm.forward)


def capture(gm: fx.GraphModule, example_inputs: Sequence[Any], patches: dict[str, Any]) -> Captured:
    """The forward and backward of `gm`, the graph that Dynamo traced up to a scalar loss.

    patches: of Inductor's configuration, for everything that happens here.

    Raises:
        Refusal: a graph whose parts cannot be joined.
    """
    _clone_outputs(gm)
    graphs = _Graphs()
    with functorch_config.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True):
        compile_fx(gm, example_inputs, inner_compile=graphs.keep, config_patches=patches)
    context = torch._guards.TracingContext.get()
    if graphs.forward is None or graphs.backward is None:
        raise Refusal("the loss does not depend on any parameter that requires a gradient")
    if len(graphs.inputs) != len(example_inputs) or context.fake_mode is None:
        raise Refusal("two inputs of the model share memory, or an input is a tensor subclass")
    return _joined(graphs.forward, graphs.backward, graphs.inputs, context.fw_metadata, context.fake_mode)


def _clone_outputs(gm: fx.GraphModule) -> None:
    """A loss that is a view is returned by AOTAutograd through its base: a clone of one element avoids that."""
    output = gm.graph.output_node()
    with gm.graph.inserting_before(output):
        clones = [gm.graph.call_method("clone", (node,)) for node in output.args[0]]  # type: ignore[union-attr]
    output.args = (tuple(clones),)
    gm.recompile()


def _joined(
    forward: fx.GraphModule,
    backward: fx.GraphModule,
    inputs: Sequence[Any],
    metadata: Any,
    fake_mode: FakeTensorMode,
) -> Captured:
    joined = Captured(fx.Graph(), {}, list(inputs), fake_mode)
    values: dict[fx.Node, Any] = {}
    results = joined.graph.graph_copy(_renamed(forward, "forward", joined), values)
    primals = [node for node in joined.graph.nodes if node.op == "placeholder"]
    mutated = metadata.mutated_inp_runtime_indices
    outputs = list(results[len(mutated) : len(mutated) + len(metadata.output_info)])  # type: ignore[index]
    saved = [realized(joined.graph, value) for value in results[metadata.num_forward :]]  # type: ignore[index]
    tangents = [_ones(joined.graph, node) for node in outputs]
    sources = [*saved, *tangents]
    targets = [node for node in backward.graph.nodes if node.op == "placeholder"]
    if len(sources) != len(targets):
        raise Refusal(f"the backward takes {len(targets)} inputs where the forward gives {len(sources)}")
    gradients = joined.graph.graph_copy(
        _renamed(backward, "backward", joined), dict(zip(targets, sources, strict=True))
    )
    for index, new_value in zip(mutated, results, strict=False):  # type: ignore[arg-type]
        joined.graph.call_function(aten.copy_.default, (primals[index], new_value)).meta["val"] = inputs[index]
    _writes_last(joined.graph)
    joined.graph.output((tuple(outputs), tuple(gradients[: len(primals)])))  # type: ignore[index]
    return joined


def _renamed(gm: fx.GraphModule, prefix: str, into: Captured) -> fx.Graph:
    """The graph of `gm`, with its attributes under names that the other half cannot have."""
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            value: Any = gm
            for part in node.target.split("."):
                value = getattr(value, part)
            node.target = f"{prefix}_{node.target.replace('.', '_')}"
            into.attributes[node.target] = value
    return gm.graph


def _ones(graph: fx.Graph, loss: fx.Node) -> fx.Node:
    """The gradient of the loss by itself; a graph that scales its loss puts the scale there."""
    value: Tensor = loss.meta["val"]
    node = graph.call_function(aten.full.default, (list(value.shape), 1.0))
    node.kwargs = {"dtype": value.dtype, "layout": torch.strided, "device": value.device, "pin_memory": False}
    node.meta["val"] = value
    node.meta[TANGENT] = True
    return node


def _writes_last(graph: fx.Graph) -> None:
    """Move the writes to inputs behind everything: both halves read the values from before the step."""
    for node in [node for node in graph.nodes if node.target == aten.copy_.default]:
        node.replace_all_uses_with(node.args[1])
        graph.create_node(node.op, node.target, node.args, node.kwargs).meta.update(node.meta)
        graph.erase_node(node)

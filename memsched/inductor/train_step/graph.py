"""From a captured forward and backward to the graph of a whole step: every gradient ends where it is used.

    primals ─> forward ─> backward ─> gradient of p ─┬─> update of p ─> copy_(p), copy_(state of p)     UPDATE
                                                     ├─> + what p.grad has so far                       ACCUMULATE
                                                     └─> its squared norm, whether it is finite         LOOK

The graph is functional except for the writes at its end, as AOTAutograd makes them; Inductor turns each into a kernel
that writes in place.  In that form nothing holds a gradient back: its last reader is its own update, and the planner
may put that right behind the gradient.  Two promises are in the graph itself and hold in every order of it:

- *An update starts only when its gradient is final*: it reads the gradient, or what was made of it (the sum over
  micro-batches, the average over processes, the clipped gradient).
- *A parameter is written only after all its readers*: the write is to an input, and Inductor orders it so.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx

from memsched.inductor.host import GRAPH_KIND
from memsched.inductor.train_step.capture import TANGENT, Captured
from memsched.inductor.train_step.clipping import (
    Clip,
    by_own_norm,
    by_value,
    clip_coefficient,
    multiplied,
    norm_of_gradients,
)
from memsched.inductor.train_step.replicas import Replicas, averaging, in_buckets
from memsched.inductor.train_step.rules.rule import work_dtype
from memsched.inductor.train_step.scaling import Scale, all_finite, chosen, spread, unscaled
from memsched.inductor.train_step.state import UpdateForm
from memsched.records.report import GraphKind

__all__ = ["Purpose", "Recipe", "StepGraph", "build_step"]

aten = torch.ops.aten


class Purpose(Enum):
    """What a graph makes of its gradients."""

    UPDATE = auto()
    ACCUMULATE = auto()
    LOOK = auto()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a graph does with its gradients: the key under which it is compiled.

    accumulated: for each parameter, whether it comes with a gradient of earlier micro-batches.
    forms: for each parameter, its update.
    """

    purpose: Purpose
    clip: Clip = Clip.NONE
    scale: Scale = Scale.NONE
    accumulated: tuple[bool, ...] = ()
    forms: tuple[UpdateForm, ...] = ()


@dataclass
class StepGraph:
    """A graph to compile.

    inputs: fake inputs: the model's; then the gradients so far, the scale of the loss, the state, the scalars, and the
        number that clipping takes, as far as the recipe has them.
    written: by the input of the model that it belongs to, the placeholders that one update writes.
    update_nodes: the names of the nodes that the updates consist of.
    buckets: bytes of gradients in each call that averages them over processes.
    """

    module: fx.GraphModule
    inputs: list[Any]
    written: dict[int, tuple[str, ...]]
    update_nodes: frozenset[str]
    buckets: tuple[int, ...]


def build_step(
    captured: Captured,
    params: Sequence[int],
    recipe: Recipe,
    extra: Sequence[Any],
    replicas: Replicas | None = None,
) -> StepGraph:
    """The graph of `recipe`; its outputs are the loss, then what the purpose asks for.

    UPDATE: the norm of the gradients, when it clips by it, and whether they are finite, when it is guarded; LOOK: both,
    the latter with a scale; ACCUMULATE: the gradients of the parameters that had none.

    params: the inputs of the model that are updated, by index.
    extra: what the graph is called with behind the inputs of the model (`StepGraph.inputs`).
    replicas: the processes over which gradients are averaged; what is accumulated is not, until an update reads it.
    """
    builder = _Builder(captured.copy(), params, list(extra))
    so_far = [builder.add_input("arg_gradient") if had else None for had in recipe.accumulated]
    scale = None if recipe.scale is Scale.NONE else builder.add_input("arg_scale")
    if scale is not None:
        builder.scale_loss(scale)
    gradients, outputs = _summed_gradients(builder, so_far), builder.outputs[:1]
    if replicas is not None and recipe.purpose is not Purpose.ACCUMULATE:
        gradients = _averaged_gradients(builder, gradients, replicas)
    if recipe.purpose is Purpose.ACCUMULATE:
        for at, gradient, target in zip(params, gradients, so_far, strict=True):
            if target is None:
                outputs.append(gradient)
            else:
                builder.write(at, [target], [gradient])
    elif recipe.purpose is Purpose.LOOK:
        builder.drop_writes()
        outputs += builder.call(norm_of_gradients, "norm", _unscaled_gradients(builder, gradients, scale))
        if scale is not None:
            outputs += builder.call(all_finite, "finite", gradients)
    else:
        outputs += _add_updates(builder, recipe, gradients, scale)
    return builder.finish(outputs)


def _summed_gradients(builder: _Builder, so_far: Sequence[fx.Node | None]) -> list[fx.Node]:
    """For each parameter the sum over micro-batches."""
    return [
        gradient if before is None else builder.call(_sum, "sum", [gradient, before])[0]
        for gradient, before in zip(builder.gradients, so_far, strict=True)
    ]


def _unscaled_gradients(builder: _Builder, gradients: Sequence[fx.Node], scale: fx.Node | None) -> list[fx.Node]:
    """The gradients of the loss itself."""
    if scale is None:
        return list(gradients)
    return [builder.call(unscaled, "unscaled", [gradient, scale])[0] for gradient in gradients]


def _averaged_gradients(builder: _Builder, gradients: Sequence[fx.Node], replicas: Replicas) -> list[fx.Node]:
    """For each parameter the average over the processes; buckets are filled in the order of the graph."""
    born = {node: at for at, node in enumerate(builder.graph.nodes)}
    order = sorted(range(len(gradients)), key=lambda at: born[gradients[at]])
    function, averaged = averaging(replicas.group, replicas.ranks), list(gradients)
    for bucket in in_buckets([gradients[at].meta["val"] for at in order], replicas.bucket_bytes):
        places = [order[at] for at in bucket]
        builder.buckets.append(sum(gradients[at].meta["val"].nbytes for at in places))
        results = builder.call(function, "average", [gradients[at] for at in places])
        for at, result in zip(places, results, strict=True):
            averaged[at] = result
    return averaged


def _add_updates(builder: _Builder, recipe: Recipe, scaled: Sequence[fx.Node], scale: fx.Node | None) -> list[fx.Node]:
    """Append the update of every parameter; what the graph returns beside the loss."""
    states = [[builder.add_input(f"arg_{name}") for name in form.names] for form in recipe.forms]
    cohorts = [builder.add_input("arg_scalars") for _ in {form.cohort for form in recipe.forms}]
    gradients = _unscaled_gradients(builder, scaled, scale)
    gradients, returned = _clipped_gradients(builder, recipe.clip, gradients)
    guard = builder.call(all_finite, "finite", scaled) if recipe.scale is Scale.GUARDED else []
    for at, form, gradient, state in zip(builder.params, recipe.forms, gradients, states, strict=True):
        targets = [builder.primals[at], *state]
        function = _update_function(form)
        key = (form.rule, form.structure, form.names)
        values = builder.call(function, key, [*targets, gradient, cohorts[form.cohort]])
        if guard:
            values = builder.call(chosen, "chosen", [*guard, *targets, *values])
        builder.write(at, targets, values)
    return [*returned, *guard]


def _clipped_gradients(builder: _Builder, clip: Clip, gradients: list[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """The gradients that the updates get, and what the graph returns of it: the norm, if that was taken here."""
    if clip is Clip.NONE:
        return gradients, []
    number, returned = builder.add_input("arg_clip"), list[fx.Node]()
    if clip in (Clip.EACH, Clip.VALUE):
        function, key = (by_own_norm, "own norm") if clip is Clip.EACH else (by_value, "value")
        return [builder.call(function, key, [gradient, number])[0] for gradient in gradients], []
    if clip is Clip.HELD:
        returned = builder.call(norm_of_gradients, "norm", gradients)
        (number,) = builder.call(clip_coefficient, "coefficient", [*returned, number])
    return [builder.call(multiplied, "product", [gradient, number])[0] for gradient in gradients], returned


def _update_function(form: UpdateForm) -> Callable[..., tuple[Tensor, ...]]:
    """The update of a rule on a flat list of tensors, in the type of the work; the results are rounded once."""

    def update(param: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        *state, gradient, scalars = rest
        work = work_dtype(param.dtype)
        named = {name: value.to(work) for name, value in zip(form.names, state, strict=True)}
        new_param, new_state = form.rule.update(
            form.structure, param.to(work), gradient.to(work), named, list(scalars.unbind())
        )
        results = (new_state[name].to(value.dtype) for name, value in zip(form.names, state, strict=True))
        return new_param.to(param.dtype), *results

    return update


def _sum(gradient: Tensor, so_far: Tensor) -> tuple[Tensor]:
    return (so_far + gradient,)


@dataclass
class _Builder:
    """The graph while it grows; `extra` are the values of the inputs that are still to be added."""

    captured: Captured
    params: Sequence[int]
    extra: list[Any]
    traced: dict[Hashable, fx.GraphModule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graph = self.captured.graph
        self.outputs, gradients = self.captured.outputs
        self.graph.erase_node(self.graph.output_node())
        self.primals = [node for node in self.graph.nodes if node.op == "placeholder"]
        self.gradients = [node for at in self.params if (node := gradients[at]) is not None]
        self.values = list(self.captured.inputs)
        self.writes: dict[int, list[tuple[fx.Node, fx.Node]]] = {}
        self.buckets: list[int] = []
        self._update_nodes: set[str] = set()
        self._last_input = self.primals[-1]

    def add_input(self, name: str) -> fx.Node:
        """The next of the `extra` inputs.  Inductor takes names that begin with "arg" for tensors of the caller."""
        value = self.extra[len(self.values) - len(self.captured.inputs)]
        with self.graph.inserting_after(self._last_input):
            node = self._last_input = self.graph.placeholder(f"{name}_{len(self.values)}")
        node.meta["val"] = self.captured.fake_mode.from_tensor(value, static_shapes=True)
        self.values.append(node.meta["val"])
        return node

    def scale_loss(self, scale: fx.Node) -> None:
        """The gradient of the loss by itself becomes `scale`; that of what the loss is made of follows."""
        (ones,) = (node for node in self.graph.nodes if TANGENT in node.meta)
        with self.graph.inserting_before(ones):
            (scaled,) = self.call(spread, "spread", [scale, ones], is_update=False)
        ones.replace_all_uses_with(scaled, lambda user: user is not scaled)

    def call(
        self, function: Callable[..., Any], key: Hashable, arguments: Sequence[fx.Node], *, is_update: bool = True
    ) -> list[fx.Node]:
        """The nodes of `function(*arguments)`, a function from tensors to a tuple of tensors.

        key: tells functions apart; calls with equal keys on equal shapes share one trace.
        is_update: whether the nodes belong to an update, and not to the backward.
        """
        values = [node.meta["val"] for node in arguments]
        key = (key, *((tuple(value.shape), value.stride(), value.dtype, value.device) for value in values))
        if key not in self.traced:
            with self.captured.fake_mode, torch.no_grad(), torch._C._DisableAutocast():
                # Copies of one trace share their values, and tracing would take two arguments of one value for one.
                distinct = [torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device) for v in values]
                self.traced[key] = make_fx(function, select_decomp_table())(*distinct)
        trace = self.traced[key].graph
        inputs = [node for node in trace.nodes if node.op == "placeholder"]
        copied = dict(zip(inputs, arguments, strict=True))
        results = self.graph.graph_copy(trace, copied)
        if is_update:
            self._update_nodes.update(node.name for node in set(copied.values()) - set(arguments))
        return list(results)  # type: ignore[arg-type]

    def write(self, at: int, targets: Sequence[fx.Node], values: Sequence[fx.Node]) -> None:
        """Write `values` to the inputs `targets` at the end of the graph: the update of the model's input `at`."""
        self.writes[at] = list(zip(targets, values, strict=True))

    def drop_writes(self) -> None:
        """Forget the writes of the model itself (to the statistics of a BatchNorm): this graph only looks."""
        for node in list(self.graph.nodes):
            if node.target is aten.copy_.default:
                self.graph.erase_node(node)

    def finish(self, outputs: Sequence[fx.Node]) -> StepGraph:
        """The graph with its writes: first those of the model (the statistics of a BatchNorm), then the updates."""
        position = {node: at for at, node in enumerate(self.primals)}
        copies = [node for node in self.graph.nodes if node.target is aten.copy_.default]
        written: dict[int, tuple[str, ...]] = {position[node.args[0]]: (node.args[0].name,) for node in copies}
        for at, writes in self.writes.items():
            written[at] = tuple(target.name for target, _ in writes)
            for target, value in writes:
                node = self.graph.call_function(aten.copy_.default, (target, value))
                node.meta["val"] = target.meta["val"]
                self._update_nodes.add(node.name)
        output = self.graph.output(tuple(outputs))
        output.meta["user_visible_output_idxs"] = list(range(len(outputs)))
        self.graph.eliminate_dead_code()
        self.graph.lint()
        module = fx.GraphModule(self.captured.attributes, self.graph)
        module.meta[GRAPH_KIND] = GraphKind.STEP
        return StepGraph(module, self.values, written, frozenset(self._update_nodes), tuple(self.buckets))

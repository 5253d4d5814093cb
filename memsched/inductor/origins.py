"""Where a buffer comes from, in the words of the person who wrote the model: from FX metadata to `Origin`.

Inductor's IR keeps for every buffer the FX nodes that it was lowered from; a FX node keeps the Python stack of the
forward that was traced, and the stack of modules.  AOTAutograd copies both onto the nodes of the backward:

    buf12  <- origins: mm_1      stack_trace          File "model.py", line 25, in forward: z = self.linear(y)
                                 fwd_nn_module_stack  L['self'].linear
                                 seq_nr               the autograd node that it differentiates

The value of a buffer is what the *last* of its origins computes; the others were inlined into its kernel.  The sum of
the gradients of a tensor that was used twice carries the line that made the tensor, and no module: it belongs to both
uses.  A tangent carries nothing: it belongs to the line whose gradient it is, which is that of its first reader.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._inductor.virtualized import V

from memsched.core.graph import Graph
from memsched.inductor.failures import TORCH, reason_of
from memsched.inductor.sizes import elements_of
from memsched.records.origin import Origin, Role
from memsched.records.published import count

if TYPE_CHECKING:
    from torch._inductor.scheduler import Scheduler

__all__ = ["module_of", "origins_of", "source_of"]

log = logging.getLogger("memsched")

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)\n(?P<code>[^\n]*)')
_ROOT = re.compile(r"^L\['\w+'\](\._with_loss)?(\._users_model)?\.?")
"""What stands before the user's own path: the traced function, and our modules around his model."""
_SUBMODULE = re.compile(r"\._modules\['([^']+)'\]|\['([^']+)'\]|\[(\d+)\]")
_MEMSCHED = str(Path(__file__).parents[1]) + os.sep
"""Whose frame is the call of the model, where a model of PyTorch's own modules has no line of its own."""
_NEAREST = 32
"""How many FX nodes may be looked at to find the line of one that has none."""

_ROLES = {
    "SavedForBackwardsAOTOutput": Role.SAVED_FOR_BACKWARD,
    "SavedForBackwardsNoVcCheckAOTOutput": Role.SAVED_FOR_BACKWARD,
    "GradAOTOutput": Role.GRADIENT,
    "InputMutationAOTOutput": Role.UPDATED_INPUT,
    "PlainAOTOutput": Role.OUTPUT,
}


def origins_of(graph: Graph) -> dict[str, Origin]:
    """What is known about every buffer of `graph`, which was extracted from the scheduler of `V.graph`, by name.

    Nothing depends on it, so it never fails: what cannot be read is left out, with a warning and a counter.
    """
    try:
        return _origins_of(graph)
    except Exception as error:
        count("naming buffers")
        log.warning("memsched: %s: no source lines (%s)", graph.name, reason_of(error))
        return {}


def _origins_of(graph: Graph) -> dict[str, Origin]:
    nodes = _FxNodes(V.graph.module.graph.nodes)
    roles = _output_roles(nodes)
    scheduler: Scheduler = V.graph.scheduler
    origins = {}
    for buffer in graph.buffers:
        if buffer.producer is None:
            role = _input_role(nodes.placeholders.get(buffer.name))
            origins[buffer.name] = _input_origin(buffer.name, nodes, role)
        elif buffer.name in scheduler.name_to_buf:
            operation = scheduler.name_to_buf[buffer.name].node
            origins[buffer.name] = _computed_origin(operation, nodes, roles.get(buffer.name, Role.NONE))
    return origins


class _FxNodes:
    """The nodes of one FX graph: their positions, the placeholders by name, and modules by autograd node."""

    def __init__(self, nodes: Iterable[torch.fx.Node]) -> None:
        self.position = {node: at for at, node in enumerate(nodes)}
        self.placeholders = {str(node.target): node for node in self.position if node.op == "placeholder"}
        self.output = next((node for node in self.position if node.op == "output"), None)
        self.module_of_sequence: dict[int, str] = {}
        for node in self.position:
            if "seq_nr" in node.meta and not _is_sum_of_gradients(node):
                module = module_of(node)
                if module:
                    self.module_of_sequence.setdefault(node.meta["seq_nr"], module)

    def module(self, node: torch.fx.Node) -> str:
        """The path of the module that the node, or another node of the same autograd node, was traced in."""
        if _is_sum_of_gradients(node):
            return ""
        return module_of(node) or self.module_of_sequence.get(node.meta.get("seq_nr", -1), "")

    def latest_first(self, origins: Iterable[torch.fx.Node]) -> list[torch.fx.Node]:
        """The origins that are in this graph, the one that computes the buffer's value first."""
        return sorted((node for node in origins if node in self.position), key=lambda node: -self.position[node])


def _computed_origin(operation: Any, nodes: _FxNodes, role: Role) -> Origin:
    origins = nodes.latest_first(getattr(operation, "origins", ()) or ())
    dtype, shape = _type_of_operation(operation)
    if not origins:
        return Origin(dtype, shape, role=role)
    source = next(filter(None, map(source_of, _nearby(origins))), "")
    return Origin(dtype, shape, str(origins[0].target), source, nodes.module(origins[0]), role)


def _input_origin(name: str, nodes: _FxNodes, role: Role) -> Origin:
    node = nodes.placeholders.get(name)
    if node is None:
        return Origin(role=role)
    value = node.meta.get("val")
    dtype, shape = ("", ()) if not isinstance(value, torch.Tensor) else (_dtype(value.dtype), _shape(value.shape))
    readers = sorted(node.users, key=lambda user: nodes.position[user])
    source = source_of(node) or next(filter(None, map(source_of, readers)), "")
    operator = str(node.meta.get("original_aten") or "")
    return Origin(dtype, shape, operator, source, nodes.module(node), role)


def _output_roles(nodes: _FxNodes) -> dict[str, Role]:
    """What the graph returns each buffer for: AOTAutograd describes every output."""
    roles: dict[str, Role] = {}
    descriptions = nodes.output.meta.get("desc") if nodes.output is not None else None
    for description, value in zip(descriptions or (), V.graph.graph_outputs, strict=False):
        role = _ROLES.get(type(description).__name__, Role.OUTPUT)
        try:
            name = value.get_name()
        except (AttributeError, NotImplementedError):
            continue  # a constant, or nothing at all
        roles[name] = roles.get(name, Role.NONE) | role
    return roles


def _input_role(node: torch.fx.Node | None) -> Role:
    description = type(node.meta.get("desc")).__name__ if node is not None else ""
    if description == "TangentAOTInput":
        return Role.INCOMING_GRADIENT
    return Role.SAVED_BY_FORWARD if V.graph.is_backward else Role.INPUT


def _nearby(origins: Sequence[torch.fx.Node]) -> Iterator[torch.fx.Node]:
    """The origins, then what they read, breadth first: somewhere there is a line of the user's."""
    queue = list(origins)
    seen = set(queue)
    at = 0
    while at < len(queue) and at < len(origins) + _NEAREST:
        node = queue[at]
        at += 1
        yield node
        new = [before for before in node.all_input_nodes if before not in seen]
        seen.update(new)
        queue += new


def _is_sum_of_gradients(node: torch.fx.Node) -> bool:
    return bool(node.meta.get("is_gradient_acc"))


def source_of(node: torch.fx.Node) -> str:
    """The user's line that a node comes from; "" where it is not known."""
    return _source_of_stack(node.meta.get("stack_trace") or "")


@functools.lru_cache(maxsize=4096)
def _source_of_stack(stack: str) -> str:
    """ "file:line in function: code" of the innermost frame that is not PyTorch's own."""
    frames = [frame for frame in _FRAME.finditer(stack) if not frame["file"].startswith(_MEMSCHED)]
    if not frames:
        return ""
    users = [frame for frame in frames if not frame["file"].startswith(TORCH)]
    frame = (users or frames)[-1]
    return f"{_short(frame['file'])}:{frame['line']} in {frame['function']}: {frame['code'].strip()}"


def _short(path: str) -> str:
    """`path` as it would be imported: from the working directory or from a folder of `sys.path`, whichever is nearest.

    So a line is called the same on every machine that has the model somewhere else.
    """
    folders = (os.path.join(os.path.abspath(folder), "") for folder in (".", *sys.path))
    return min((path.removeprefix(folder) for folder in folders), key=len)


def module_of(node: torch.fx.Node) -> str:
    """The path of the module that the node was traced in, as `named_modules` has it; empty where it is not known."""
    stack: Mapping[str, Any] | None = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    if not stack:
        return ""
    return _module_path(str(list(stack.values())[-1][0]))


@functools.lru_cache(maxsize=4096)
def _module_path(path: str) -> str:
    """`L['self'].blocks[0].norm` as `named_modules` has it, `blocks.0.norm`."""
    plain = _SUBMODULE.sub(lambda match: "." + next(filter(None, match.groups())), _ROOT.sub("", path))
    return plain.strip(".")


def _type_of_operation(operation: Any) -> tuple[str, tuple[int, ...]]:
    try:
        return _dtype(operation.get_dtype()), _shape(operation.get_size())
    except (AttributeError, NotImplementedError):
        return "", ()  # a buffer without a tensor: a kernel with several outputs, or one that only has effects


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(sizes: Iterable[Any]) -> tuple[int, ...]:
    """The sizes as numbers: for a symbolic one, the size that Inductor plans with."""
    return tuple(int(size) if _is_number(size) else elements_of(size) for size in sizes)


def _is_number(size: Any) -> bool:
    return isinstance(size, int) or bool(getattr(size, "is_number", False))

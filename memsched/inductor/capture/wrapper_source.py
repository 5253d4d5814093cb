"""The wrappers that Inductor generates for a model, with code generation but without any compiler: seconds.

    traced graph ──> lowering ──> fusion, order ──> memory planning ──> source of the wrapper ──┤ captured here
                                                                                                └──x  C++, Triton

The traced graph itself runs in place of the compiled one, so that autograd goes on to the backward graph.  The wrappers
are those of a real compile: nothing after them feeds back into them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import sympy
import torch
from torch import Tensor
from torch._inductor.graph import GraphLowering

from memsched.inductor.bytes.replay import Replay, WrapperInput, replay_wrapper
from memsched.inductor.calls import Batch, Model
from memsched.inductor.capture.lower import lower, planned_way, run_uncompiled, stock_way
from memsched.inductor.options import BackendOptions
from memsched.inductor.sizes import is_tensor
from memsched.inductor.stopping import stop_compile
from memsched.inductor.storages.saved_copies import saved_copies
from memsched.inductor.storages.tangents import tangents
from memsched.storage.pieces import CUDA_ALIGNMENT

__all__ = ["Wrapper", "capture_wrappers", "generate_wrappers"]


@dataclass(frozen=True, slots=True)
class Wrapper:
    """The generated Python of one graph, and what it is called with.

    name: as in the graph's report: its kind and its number.
    constants: attributes of the module that the source refers to.
    """

    name: str
    source: str
    inputs: tuple[WrapperInput | int | float, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)

    def replay(self) -> Replay:
        """The exact bytes of one call (`memsched.inductor.bytes.replay`)."""
        devices = {one.device for one in self.inputs if isinstance(one, WrapperInput)}
        alignment = CUDA_ALIGNMENT if any(device.startswith("cuda") for device in devices) else 1
        return replay_wrapper(self.source, self.inputs, self.constants, alignment)


@contextlib.contextmanager
def capture_wrappers() -> Iterator[list[Wrapper]]:
    """Within the context every graph that Inductor generates code for is added to the list; then its compile stops."""
    captured: list[Wrapper] = []

    def capture(graph: GraphLowering, code: Any) -> None:
        captured.append(_wrapper_of(graph, code.value))
        stop_compile()

    with mock.patch.object(GraphLowering, "_compile_to_module_lines", capture):
        yield captured


def generate_wrappers(
    model: Model,
    batch: Batch,
    options: BackendOptions | None = None,
    patches: Mapping[str, Any] | None = None,
) -> list[Wrapper]:
    """The wrappers of every graph that one call of `model` with `batch`, and the backward of its loss, compiles.

    options: how memsched plans; None for stock Inductor.
    patches: Inductor's own options, on top.
    """
    way = planned_way(options, patches) if options else stock_way(patches)

    def compile_graph(gm: torch.fx.GraphModule, example_inputs: Sequence[Any], **how: Any) -> None:
        lower(way, gm, example_inputs, how, stop_after_fusion=False)

    with capture_wrappers() as captured:
        run_uncompiled(model, batch, compile_graph, way)
    return captured


def _wrapper_of(graph: GraphLowering, source: str) -> Wrapper:
    from memsched.inductor.host import graph_name

    name = graph_name()
    handed_over = {graph.graph_input_names[at] for at in (graph.bw_donated_idxs or () if graph.is_backward else ())}
    handed_over |= saved_copies(graph) | tangents(graph)
    groups = _shared_storages(graph.example_inputs or ())
    inputs: list[WrapperInput | int | float] = []
    for at, (input_name, value) in enumerate(graph.graph_inputs.items()):
        example = groups.get(at)
        inputs.append(_input_of(graph, input_name, value, input_name not in handed_over, example))
    constants = {**graph.constants, **graph.torchbind_constants}
    return Wrapper(name, source, tuple(inputs), constants)


def _shared_storages(examples: Sequence[Any]) -> dict[int, tuple[int, int, int]]:
    """For each input that shares its storage with another: (number of the storage, its bytes, the input's offset)."""
    by_storage: dict[int, list[int]] = {}
    for at, example in enumerate(examples):
        if isinstance(example, Tensor):
            by_storage.setdefault(example.untyped_storage()._cdata, []).append(at)
    shared = {}
    for number, members in enumerate(by_storage.values()):
        for at in members if len(members) > 1 else ():
            example = examples[at]
            shared[at] = number, int(example.untyped_storage().nbytes()), int(example.storage_offset())
    return shared


def _input_of(
    graph: GraphLowering, name: str, value: Any, held: bool, shared: tuple[int, int, int] | None
) -> WrapperInput | int | float:
    hint = graph.sizevars.optimization_hint
    if isinstance(value, sympy.Expr):
        return int(hint(value))
    if not is_tensor(value):
        return value if isinstance(value, (int, float)) else 0  # a process group, which no stub looks at
    size = tuple(hint(extent) for extent in value.get_size())
    stride = tuple(hint(step) for step in value.get_stride())
    device = value.get_device()
    if shared is None:
        return WrapperInput(name, size, stride, value.get_dtype(), str(device), held)
    number, storage_bytes, offset = shared
    return WrapperInput(name, size, stride, value.get_dtype(), str(device), held, number, storage_bytes, offset)

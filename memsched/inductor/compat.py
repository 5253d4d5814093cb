"""Every place where the version of torch matters, with the versions that were read (2.11 to 2.15).

| version      | scheduler pass class  | post-fusion pass in the cache key       | Inductor's estimate      |
|--------------|-----------------------|-----------------------------------------|--------------------------|
| 2.11, 2.12   | `CustomGraphPass`     | no: the pre-fusion pass carries the key | too low by the outputs   |
| 2.13 to 2.15 | `CustomSchedulerPass` | yes                                     | exact for its own model  |

memsched sets both passes with the same uuid, so the key is complete on every one of them.  What is asked of PyTorch
is asked by feature, not by version; the names are in `memsched.contract.table`, and held against every release.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch._inductor.compile_fx as compile_fx
from torch import fx
from torch._dynamo import config as dynamo_config
from torch._inductor import config, cpu_vec_isa, custom_graph_pass
from torch._inductor.codegen import cpp
from torch._inductor.codegen.common import DataTypePropagation
from torch._inductor.cudagraph_utils import BoxedDeviceIndex
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.graph import GraphLowering
from torch._inductor.utils import BoxedBool
from torch.autograd import ProfilerConfig, ProfilerState

if TYPE_CHECKING:
    from torch._inductor.scheduler import SchedulerNode

__all__ = [
    "ESTIMATE_IS_EXACT",
    "LOG_CALLS_DROPPED",
    "SUPPORTED",
    "MemoryOfThread",
    "SchedulerPass",
    "as_one_pass",
    "graph_numbers_kept",
    "inner_compile_arguments",
    "lays_channels_last",
    "log_messages_dropped",
    "passes_of",
    "tiled_loops",
    "unsupported_reason",
]

SUPPORTED = ((2, 11), (2, 15))
"""First and last minor version whose scheduler was read."""

try:
    from torch._inductor.custom_graph_pass import CustomSchedulerPass as SchedulerPass

    ESTIMATE_IS_EXACT = True
except ImportError:
    from torch._inductor.custom_graph_pass import CustomGraphPass as SchedulerPass

    ESTIMATE_IS_EXACT = False

LOG_CALLS_DROPPED = next(
    name for name in ("ignore_logging_functions", "ignore_logger_methods") if hasattr(dynamo_config, name)
)
"""Where Dynamo's config has the calls that it drops: the older name is not in every release, nor is the newer one."""

_LEVELS = frozenset(("debug", "info", "warning", "warn", "error", "exception", "critical", "fatal", "log"))
"""What the name of a method of `Logger` begins with that writes a message; those of other libraries, too."""

_TAKES_LISTS = hasattr(custom_graph_pass, "get_custom_graph_passes")
"""Whether the passes over traced graphs may be lists."""


def lays_channels_last(graph: fx.Graph, *, is_inference: bool = False) -> bool:
    """Whether Inductor lays the images of a traced graph's convolutions out with the channels last.

    is_inference: what it is told of the graph; on a GPU it does so more often then.
    """
    return bool(GraphLowering.decide_layout_opt(graph.owning_module, is_inference=is_inference))


def inner_compile_arguments() -> dict[str, Any]:
    """What `compile_fx` hands to `compile_fx_inner` for a graph of its own (`CompilerConfigExtra`), made new.

    Its maker takes the config module up to 2.11 and the graph from 2.12 on, and its fields have other names in 2.15;
    what it is made of is the same everywhere.
    """
    return {
        "cudagraphs": BoxedBool(config.triton.cudagraphs),
        "graph_id": next(compile_fx._graph_counter),
        "boxed_forward_device_index": BoxedDeviceIndex(None),
    }


@contextlib.contextmanager
def graph_numbers_kept() -> Iterator[None]:
    """Within the context graphs are numbered as if nobody compiled: plans that are made before a compile take none."""
    counter = compile_fx._graph_counter
    compile_fx._graph_counter = itertools.count()
    try:
        yield
    finally:
        compile_fx._graph_counter = counter


@contextlib.contextmanager
def log_messages_dropped() -> Iterator[None]:
    """Within the context Dynamo traces past messages to the loggers of `logging`; they are not written.

    Otherwise each is an end of the graph: Hugging Face's GPT-2 warns in every forward, by a `warning_once` that
    transformers has put on `Logger`.
    """
    messages = {method for name, method in vars(logging.Logger).items() if name.split("_")[0] in _LEVELS}
    with dynamo_config.patch({LOG_CALLS_DROPPED: {*getattr(dynamo_config, LOG_CALLS_DROPPED), *messages}}):
        yield


def tiled_loops(nodes: Sequence[SchedulerNode]) -> dict[int, int]:
    """The loops of the C++ kernel of `nodes` that are vectorized, counted from the outermost, and their step.

    Asks what code generation will ask (`CppKernelProxy.codegen_functions`, torch/_inductor/codegen/cpp.py).
    """
    if not cpu_vec_isa.pick_vec_isa():
        return {}
    bodies, sizes = [node._body for node in nodes], [node.group[1] for node in nodes]
    for body in bodies:
        DataTypePropagation.propagate_loopbody(body)  # notes types at its nodes, as code generation does first
    # A third result, statistics, is not in every release.
    factors, places = cpp.TilingSelect().select_tiling(bodies, sizes)[:2]
    group, reduced = max(sizes, key=lambda size: len(size[1]))
    levels = len(group) + len(reduced)
    return {place % levels: int(factor) for place, factor in zip(places, factors, strict=True)}


def as_one_pass(passes: Sequence[CustomGraphPass]) -> Any:
    """Several passes over a traced graph as Inductor's config takes them: a list from 2.13 on, before one pass."""
    if len(passes) == 1:
        return passes[0]
    return list(passes) if _TAKES_LISTS else _InTurn(passes)


def passes_of(as_set: Any) -> list[Any]:
    """The passes that `as_one_pass` has put together, or that the user has set; none for None."""
    if isinstance(as_set, _InTurn):
        return list(as_set.passes)
    return list(as_set) if isinstance(as_set, (list, tuple)) else [] if as_set is None else [as_set]


class _InTurn(CustomGraphPass):  # type: ignore[misc]
    """Several passes, one after the other."""

    def __init__(self, passes: Sequence[Any]) -> None:
        self.passes = tuple(passes)

    def __call__(self, graph: torch.fx.Graph) -> None:
        for one in self.passes:
            one(graph)

    def uuid(self) -> Any:
        """None, which switches the cache off, if a pass has no hash of its own."""
        known = [one.uuid() if isinstance(one, CustomGraphPass) else None for one in self.passes]
        return None if None in known else "\n".join(map(str, known))


def unsupported_reason(version: str = torch.__version__) -> str | None:
    """Why memsched leaves this torch alone, in one line; None when it is supported."""
    match = re.match(r"(\d+)\.(\d+)", version)
    first, last = SUPPORTED
    if match and first <= (int(match[1]), int(match[2])) <= last:
        return None
    return f"torch {version} is not between {first[0]}.{first[1]} and {last[0]}.{last[1]}"


class MemoryOfThread:
    """The most that one thread allocates on CPU within the context: `peak`, in bytes, above what was there before.

    PyTorch's older profiler, which watches one thread, costs a millisecond, and does not mind one of the user's on
    another thread.  The newer one takes half a second to start, and there may be but one.
    """

    EXISTS = hasattr(torch._C._autograd, "_enable_profiler_legacy")
    """Whether this PyTorch has it."""

    peak = 0

    def __enter__(self) -> MemoryOfThread:
        extra = torch._C._profiler._ExperimentalConfig()
        counted = (False, True, False, False, False)  # shapes, memory, stacks, FLOPs, modules
        torch._C._autograd._enable_profiler_legacy(ProfilerConfig(ProfilerState.CPU, *counted, extra))
        return self

    def __exit__(self, *_: object) -> None:
        live = 0
        for event in itertools.chain.from_iterable(torch._C._autograd._disable_profiler_legacy()):
            if event.kind() == "memory_alloc":
                live += event.cpu_memory_usage()
                self.peak = max(self.peak, live)

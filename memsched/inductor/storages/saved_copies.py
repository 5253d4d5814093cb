"""Which inputs of a backward graph are copies that its forward graph made, and so die in it.

A parameter that is saved for the backward is held by the caller, and nothing that the backward does frees it.  But what
arrives under the parameter's name may be a copy in another layout (`memsched.inductor.rewrites.keep_saved_layout`),
which is freed by its last reader:

    forward:   w, strides (9, 1, 3)  ──copy──> buf0, strides (9, 3, 1), returned as what is saved of w
    backward:  an input called w

Only the forward knows that it is buf0: what it returns of an input has other strides than the input.  So the names are
noted at the tracing context that forward and backward share: by the pass that plans the forward, and by whoever
compiles it, since a forward that comes out of a cache runs no pass.  They are part of the key of the backward's plan.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import fx
from torch._guards import TracingContext
from torch._inductor.virtualized import V

from memsched.inductor.failures import stock_goes_on
from memsched.inductor.rewrites.keep_saved_layout import is_tensor_input
from memsched.inductor.sizes import is_tensor

if TYPE_CHECKING:
    from torch._inductor.graph import GraphLowering

__all__ = ["note_saved_copies", "noted_copies", "noting_saved_copies", "saved_copies", "strides_of"]

_noted: WeakKeyDictionary[TracingContext, frozenset[str]] = WeakKeyDictionary()


def note_saved_copies() -> None:
    """Note the inputs of `V.graph` of which it returns a copy, if it is a forward graph."""
    if not V.graph.is_backward:
        _note(_results_of(V.graph.graph), [strides_of(output) for output in V.graph.graph_outputs])


def noting_saved_copies(compile_graph: Callable[..., Any], *, strict: bool) -> Callable[..., Any]:
    """A `compile_fx_inner` that also notes the copies that a forward graph returns, wherever it comes from.

    strict: a failure to note is raised; otherwise it is told, and the backward is planned as if nothing were a copy.
    """

    def noting() -> AbstractContextManager[None]:
        return stock_goes_on("the layout of what is saved", "noting saved copies", strict=strict)

    @functools.wraps(compile_graph)
    def compile_and_note(gm: fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        results: list[Any] = []
        with noting():
            results = _results_of(gm.graph)  # before Inductor changes the graph
        compiled = compile_graph(gm, *args, **kwargs)
        with noting():
            context = TracingContext.try_get()
            if context is not None and context.output_strides and not kwargs.get("is_backward"):
                _note(results, context.output_strides)
        return compiled

    return compile_and_note


def noted_copies() -> frozenset[str]:
    """What is noted for the step that is being compiled."""
    context = TracingContext.try_get()
    return frozenset() if context is None else _noted.get(context, frozenset())


def saved_copies(graph: GraphLowering) -> frozenset[str]:
    """The inputs of a graph that is being compiled that are copies; none, but for a backward graph."""
    return noted_copies() & frozenset(graph.graph_inputs) if graph.is_backward else frozenset()


def strides_of(output: Any) -> tuple[int, ...] | None:
    """The strides of a lowered output in elements; None for one that is no tensor, or of a symbolic shape."""
    if not is_tensor(output):
        return None
    strides = output.get_stride()
    return tuple(map(int, strides)) if all(getattr(s, "is_number", True) for s in strides) else None


def _results_of(graph: fx.Graph) -> list[Any]:
    """What a traced graph returns; for its inputs, (name, sizes, strides), read now."""
    returned = graph.output_node().args[0]
    if not isinstance(returned, (list, tuple)):
        return []
    return [
        (node.name, tuple(node.meta["val"].shape), tuple(node.meta["val"].stride())) if is_tensor_input(node) else None
        for node in returned
    ]


def _note(results: Sequence[Any], strides: Sequence[Any]) -> None:
    context = TracingContext.try_get()
    if context is not None:
        pairs = zip(results, strides, strict=False)
        _noted[context] = frozenset(result[0] for result, given in pairs if result and _is_copy(result, given))


def _is_copy(result: tuple[str, Sequence[Any], Sequence[Any]], given: Sequence[Any] | None) -> bool:
    """Whether something lies in another layout than it came; the stride of a dimension of one says nothing."""
    _, sizes, strides = result
    if given is None or not all(isinstance(number, int) for number in (*sizes, *strides, *given)):
        return False
    return any(size > 1 and old != new for size, old, new in zip(sizes, strides, given, strict=True))

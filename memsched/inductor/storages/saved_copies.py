"""Which inputs of a backward graph are copies that its forward graph made, and so die in it.

A parameter that is saved for the backward is held by the caller, and nothing that the backward does frees it.  But what
arrives under the parameter's name may be a copy in another layout (`memsched.inductor.rewrites.keep_saved_layout`),
which is freed by its last reader:

    forward:   w ──copy──> buf0, returned as what is saved of w
    backward:  an input called w, of which only the forward knows that it is buf0

So the forward's names are noted where its backward finds them: at the tracing context that the two share.  Where the
forward graph was loaded from Inductor's cache nothing is noted, and the copies count as the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch._guards import TracingContext
from torch._inductor.virtualized import V

from memsched.inductor.rewrites.keep_saved_layout import is_tensor_input

if TYPE_CHECKING:
    from torch._inductor.graph import GraphLowering

__all__ = ["note_saved_copies", "saved_copies"]

_noted: WeakKeyDictionary[TracingContext, frozenset[str]] = WeakKeyDictionary()


def note_saved_copies() -> None:
    """Note the inputs of `V.graph` of which it returns a copy, if it is a forward graph."""
    context = TracingContext.try_get()
    if context is None or V.graph.is_backward:
        return
    returned = V.graph.graph.output_node().args[0]
    if isinstance(returned, (list, tuple)):
        pairs = zip(returned, V.graph.graph_outputs, strict=False)
        _noted[context] = frozenset(one.name for one, buffer in pairs if _is_copy(one, buffer))


def _is_copy(returned: Any, buffer: Any) -> bool:
    return is_tensor_input(returned) and buffer.get_name() not in V.graph.graph_inputs


def saved_copies(graph: GraphLowering) -> frozenset[str]:
    """The inputs of a graph that is being compiled that are copies; none, but for a backward graph."""
    context = TracingContext.try_get()
    if context is None or not graph.is_backward:
        return frozenset()
    return _noted.get(context, frozenset()) & frozenset(graph.graph_inputs)

"""Keeping a value as a buffer where Inductor would rather compute it again.

Between two graphs, what the forward saves is an output, so it is a buffer.  In one graph Inductor inlines cheap values
into every reader, however far away:

    a ─┐                              a ─┬──────────────┐
       ├─> x ──> forward              b ─┼─> forward    ├─> backward        x = a + b is computed twice:
    b ─┘   └───> backward                └──────────────┘                   a and b stay alive in place of x

`realize` is the identity as an operator; lowering it tells Inductor to compute its input into memory and adds nothing.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor.lowering import register_lowering

__all__ = ["realize_operator", "realized"]


@torch.library.custom_op("memsched::realize", mutates_args=())  # type: ignore[untyped-decorator]
def realize(x: Tensor) -> Tensor:
    """A copy when it runs outside of Inductor; nothing inside."""
    return x.clone()


@realize.register_fake  # type: ignore[untyped-decorator]
def _(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)


@register_lowering(torch.ops.memsched.realize.default, type_promotion_kind=None)  # type: ignore[untyped-decorator]
def _lower(x: Any) -> Any:
    x.realize()
    return x


realize_operator = torch.ops.memsched.realize.default


def realized(graph: fx.Graph, value: Any) -> Any:
    """`value` as its readers in `graph` shall see it: computed once, into memory, where it is defined."""
    if not isinstance(value, fx.Node) or value.op != "call_function" or not isinstance(value.meta.get("val"), Tensor):
        return value
    if _is_of_higher_order(value):
        return value
    with graph.inserting_after(value):
        node = graph.call_function(torch.ops.memsched.realize.default, (value,))
    node.meta["val"] = value.meta["val"]
    value.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    return node


def _is_of_higher_order(value: fx.Node) -> bool:
    """A result of control flow or of `run_and_save_rng_state`: in memory anyway, and a state is no fake tensor."""
    source = value.args[0] if value.target is operator.getitem else value
    return isinstance(source, fx.Node) and isinstance(source.target, torch._ops.HigherOrderOperator)

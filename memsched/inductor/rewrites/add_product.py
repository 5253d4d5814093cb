"""A product added to a sum where that lies: `total += first^T @ second`, without a second tensor of its size.

    chunks of a loss     total 1 ──+──> total 2 ──+──> total 3          each sum a buffer of its own: twice the weight
    in place             total ════+════════════════+═══>                its gradient, once

Traced graphs are functional, and `addmm(total, a, b)` writes a new buffer.  So the sum is an operator that mutates, in
the form that tracing gives such operators (`auto_functionalized_v2`); Inductor finds that nobody reads the sum before,
and lets it write in place.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._higher_order_ops.auto_functionalize import auto_functionalized_v2
from torch.utils.flop_counter import register_flop_formula

__all__ = ["add_product", "added_in_place"]


@torch.library.custom_op("memsched::add_product", mutates_args=("total",))  # type: ignore[untyped-decorator]
def add_product(total: Tensor, first: Tensor, second: Tensor) -> None:
    """total [m, n] += first^T @ second, of [rows, m] and [rows, n]."""
    total.addmm_(first.t(), second)


@add_product.register_fake  # type: ignore[untyped-decorator]
def _(total: Tensor, first: Tensor, second: Tensor) -> None:
    del total, first, second


@register_flop_formula(torch.ops.memsched.add_product)  # type: ignore[untyped-decorator]
def _flops(total: Any, first: Any, second: Any, **_: Any) -> int:
    """Of shapes."""
    (rows, m), n = first, second[-1]
    return int(2 * rows * m * n)


def added_in_place(graph: fx.Graph, total: fx.Node, first: fx.Node, second: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The call, and the sum behind it; nothing else may read `total`."""
    target = torch.ops.memsched.add_product.default
    given = {"first": first, "second": second, "_total_base_index": 0, "_all_bases": [total]}
    call = graph.call_function(auto_functionalized_v2, (target,), given)
    # A value of its own: whoever asks what shares memory is not to think that this does.
    call.meta["val"] = (None, torch.empty_like(total.meta["val"]))
    result = graph.call_function(operator.getitem, (call, 1))
    result.meta["val"] = call.meta["val"][1]
    return call, result

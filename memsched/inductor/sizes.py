"""How many elements a symbolic size stands for, and which sizes are known only as a range.

    s0 * 128           a dynamic shape: the size that Inductor plans with (its hint)
    u0 * 128           data-dependent (rows of `nonzero`): no hint; the upper end of the range that the shape
                       environment knows, here tokens * 128, or Inductor's fallback where there is none

A plan with sizes of the second kind holds for the upper end, and is never called optimal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor import config, ir
from torch._inductor.virtualized import V
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

__all__ = ["elements_of", "is_range", "is_tensor"]


def is_tensor(value: Any) -> bool:
    """Whether an input or a result in Inductor's terms is a tensor: it may be a size, or a process group."""
    return isinstance(value, ir.IRNode) and bool(value.has_tensor_output())


def is_range(expression: Any) -> bool:
    """Whether a size depends on data, so that only a range of it is known."""
    return not isinstance(expression, int) and bool(free_unbacked_symbols(expression))


def elements_of(expression: Any) -> int:
    """The number that a size, of Inductor's or of a traced tensor, counts as."""
    if isinstance(expression, torch.SymInt):
        expression = expression.node.expr
    sizevars = V.graph.sizevars
    if not is_range(expression):
        return int(sizevars.optimization_hint(expression, fallback=0))
    upper = sizevars.shape_env.bound_sympy(expression).upper
    if getattr(upper, "is_finite", False) and upper < 1 << 60:
        return int(upper)
    return int(sizevars.optimization_hint(expression, fallback=getattr(config, "unbacked_symint_fallback", 8192)))

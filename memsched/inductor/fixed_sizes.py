"""Batches of several sizes, where a lever needs to know the size: a program for each of the first ones.

    batch of 8     Dynamo compiles for 8                   the loss in chunks of 8 x 64 / 16 tokens
    batch of 5     Dynamo compiles for any size, s         here s is fixed at 5: chunks of 5 x 64 / 16 tokens
    batch of 8     the first program again
    the fifth size                                         s stays open: the loss stays whole, one warning

A chunk of tokens has a size.  Where the sizes of the graph are symbols, the loss would stay whole from the second batch
on, and a step that fitted would no longer.  Asking a symbol for its number is what specializes it: Dynamo guards on the
number, and compiles again for the next (torch/fx/experimental/symbolic_shapes.py).  It gives up on a frame that is
compiled too often (`torch._dynamo.config.recompile_limit`, 8), so only the first sizes are fixed, and none where the
user has said that sizes change: `dynamic=True`, `mark_dynamic`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo import config
from torch._guards import CompileContext
from torch.fx.experimental.symbolic_shapes import ShapeEnv

__all__ = ["FIXED_SIZES", "fix_sizes"]

log = logging.getLogger("memsched")

FIXED_SIZES = 4
"""Compiles of a frame whose sizes are fixed: with the programs for other reasons they stay below Dynamo's limit."""


def fix_sizes(gm: fx.GraphModule) -> bool:
    """Specialize what Dynamo traced to the sizes of this batch; False, with a warning, where they stay open."""
    symbols = list(_symbols(node.meta.get("example_value") for node in gm.graph.find_nodes(op="placeholder")))
    if not symbols:
        return True
    if not config.assume_static_by_default or _compiles_before() >= FIXED_SIZES or _is_promised(symbols[0]):
        _warn_once(str(CompileContext.current_compile_id()))
        return False
    for symbol in symbols:
        int(symbol)
    return True


@functools.lru_cache(maxsize=64)
def _warn_once(_of_compile: str) -> None:
    """Dynamo may trace and compile a frame anew, under the number that it had."""
    log.warning(
        "memsched: batches of any size share one program, in which nothing is computed in chunks: "
        "pad to at most %d lengths, or compile with dynamic=False",
        FIXED_SIZES,
    )


def _symbols(values: Iterator[Any]) -> Iterator[torch.SymInt]:
    """The sizes of tensors that are symbols with a known number: none that only a run will tell, no plain numbers,
    which may be others in every step."""
    for value in values:
        sizes: Sequence[Any] = [*value.shape, *value.stride()] if isinstance(value, torch.Tensor) else ()
        yield from (size for size in sizes if isinstance(size, torch.SymInt) and size.node.has_hint())


def _compiles_before() -> int:
    """How often Dynamo has compiled this frame before."""
    compile_id = CompileContext.current_compile_id()
    return (compile_id.frame_compile_id or 0) if compile_id is not None else 0


def _is_promised(symbol: torch.SymInt) -> bool:
    """Whether the user has promised that a size changes (`mark_dynamic`): then fixing it is an error of its own.

    What Dynamo has found to change by itself is a constraint, too, one that only warns.
    """
    environment: ShapeEnv = symbol.node.shape_env
    contexts = (tracked.symbolic_context for tracked in environment.tracked_fakes or ())
    constraints = (one for context in contexts for one in getattr(context, "constraint_sizes", None) or ())
    return any(constraint is not None and not constraint.warn_only for constraint in constraints)

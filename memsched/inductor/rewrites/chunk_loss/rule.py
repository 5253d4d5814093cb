"""A rule: where the result of an operator has rows, and what a chunk of it is computed from.

    rows_after   forwards: an operand has these rows; where has the result them?
    piece        backwards: the result shall have these rows; what is read, and how is a chunk computed?

The functions here are what rules have in common: operands aligned with a result, arguments by name, a call on chunks.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from memsched.inductor.rewrites.chunk_loss.rows import Dims, Operand, Piece, rest_of, shape_of

__all__ = [
    "Rule",
    "arguments_of",
    "call_on",
    "dims_of",
    "operand_of",
    "operands_of",
    "rest_sizes",
    "sizes_at",
    "takes_list",
]


class Rule(abc.ABC):
    """How one kind of operator is computed by rows."""

    @abc.abstractmethod
    def rows_after(self, node: fx.Node, source: fx.Node, rows: Dims) -> Dims:
        """The dimensions of the result that count rows where `source` has `rows`; () where none do."""

    @abc.abstractmethod
    def piece(self, node: fx.Node, rows: Dims) -> Piece | None:
        """The piece whose result has `rows`."""


def operand_of(node: fx.Node, rows: Dims, sizes: Dims) -> Operand | None:
    """What is read of `node`, aligned to the right with a result that has `rows`; None where sizes do not agree."""
    shape = shape_of(node)
    own = [shape[row] if -row <= len(shape) else 1 for row in rows]
    if all(size == 1 for size in own):
        return Operand(node)
    agree = all(size in (1, wanted) for size, wanted in zip(own, sizes, strict=True))
    return Operand(node, rows, sizes) if agree else None


def operands_of(nodes: Iterable[fx.Node], rows: Dims, sizes: Dims) -> tuple[Operand, ...] | None:
    """`operand_of` each of `nodes`; None where one does not agree."""
    found = [operand_of(node, rows, sizes) for node in nodes]
    return None if None in found else tuple(one for one in found if one is not None)


def sizes_at(node: fx.Node, rows: Dims) -> Dims:
    """The sizes of the dimensions `rows` of a node's result."""
    shape = shape_of(node)
    return tuple(shape[row] for row in rows)


def rest_sizes(shape: Dims, rows: Dims) -> Dims:
    """The sizes of all other dimensions, in their order."""
    return tuple(shape[at] for at in rest_of(len(shape), rows))


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """The arguments of a node by the names of its operator."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def call_on(node: fx.Node, values: Mapping[fx.Node, Tensor], **changed: Any) -> Tensor:
    """What the node computes of `values`, with some arguments changed."""
    target: Any = node.target
    given = arguments_of(node) | changed
    at_place = [argument.name for argument in target._schema.arguments if not argument.kwarg_only]
    known = dict(fx.node.map_arg(given, values.__getitem__))
    defaults = {argument.name: argument.default_value for argument in target._schema.arguments}
    last = max((at for at, name in enumerate(at_place) if name in known), default=-1)
    args = [known.pop(name, defaults[name]) for name in at_place[: last + 1]]
    result = target(*args, **known)
    assert isinstance(result, Tensor)
    return result


def dims_of(node: fx.Node, dimensions: int) -> Dims:
    """The dimensions that an operator names, all of them where it names none; negative."""
    given = arguments_of(node).get("dim")
    many = range(dimensions) if given in (None, []) else given if isinstance(given, Sequence) else [given]
    return tuple(at if at < 0 else at - dimensions for at in many)


def takes_list(node: fx.Node) -> bool:
    """Whether an operator takes a list of dimensions, and not one number."""
    kinds = {argument.name: str(argument.type) for argument in node.target._schema.arguments}  # type: ignore[union-attr]
    return "List" in kinds["dim"]

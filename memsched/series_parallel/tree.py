"""The decomposition tree of a series-parallel order, as an algebraic type.

    Tree = op index                  one op
         | Series(Tree, ...)         every op of a child runs before every op of the next child
         | Parallel(Tree, ...)       no precedence between ops of different children

    ops a, b, c, d with a before b and c, both before d:      Series
                                                              ├─ a
        a ──> b ──> d                                         ├─ Parallel
        └───> c ────┘                                         │  ├─ b
                                                              │  └─ c
                                                              └─ d

Claim: with no Series directly below a Series, no Parallel directly below a Parallel, and the children of a Parallel
sorted by their smallest op, the tree of an order is unique; `series` and `parallel` flatten, `recognize` sorts.

Nothing here recurses: a tree of 50,000 levels is an ordinary value.  For the same reason trees have no `==` of their
own; compare `to_json`.

Reference: J. Valdes, R. E. Tarjan, E. L. Lawler, The recognition of series parallel digraphs, SIAM J. Comput. 11, 1982.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = [
    "MAX_NESTED_DEPTH",
    "Parallel",
    "Series",
    "Tree",
    "from_json",
    "leaves",
    "parallel",
    "post_order",
    "render_lines",
    "series",
    "to_json",
    "tree_depth",
]

MAX_NESTED_DEPTH = 100
"""Deepest tree that is written as nested lists; JSON readers recurse, so a deeper one is written in postfix form."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Series:
    """At least two children, none of them a Series, that run one after the other."""

    children: tuple[Tree, ...]

    def __repr__(self) -> str:
        return f"Series of {len(self.children)}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Parallel:
    """At least two children, none of them a Parallel, that know nothing of each other."""

    children: tuple[Tree, ...]

    def __repr__(self) -> str:
        return f"Parallel of {len(self.children)}"


Tree = int | Series | Parallel


def series(parts: Iterable[Tree]) -> Tree:
    """The parts one after the other; a part that is a Series is dissolved.

    Raises:
        ValueError: there is no part.
    """
    return _joined(Series, parts)


def parallel(parts: Iterable[Tree]) -> Tree:
    """The parts side by side; a part that is a Parallel is dissolved.

    Raises:
        ValueError: there is no part.
    """
    return _joined(Parallel, parts)


def _joined(kind: Callable[[tuple[Tree, ...]], Series | Parallel], parts: Iterable[Tree]) -> Tree:
    children: list[Tree] = []
    for part in parts:
        if not isinstance(part, int) and type(part) is kind:
            children.extend(part.children)
        else:
            children.append(part)
    if not children:
        raise ValueError("tree: a series or parallel composition of nothing")
    return children[0] if len(children) == 1 else kind(tuple(children))


def post_order(tree: Tree) -> list[Tree]:
    """Every node after its children, children from left to right."""
    reverse: list[Tree] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        reverse.append(node)
        if not isinstance(node, int):
            stack.extend(node.children)
    reverse.reverse()
    return reverse


def leaves(tree: Tree) -> list[int]:
    """The ops from left to right: one legal order of the poset."""
    return [node for node in post_order(tree) if isinstance(node, int)]


def tree_depth(tree: Tree) -> int:
    """Number of compositions on the longest way down; 0 for a single op."""
    depths: list[int] = []
    for node in post_order(tree):
        if isinstance(node, int):
            depths.append(0)
        else:
            below = max(depths[-len(node.children) :])
            del depths[-len(node.children) :]
            depths.append(below + 1)
    return depths[0]


def to_json(tree: Tree) -> object:
    """The form of `TreeCertificate.tree`.

    Nested, an op index or ["S", ...] or ["P", ...], up to MAX_NESTED_DEPTH levels; deeper trees as one flat list
    ["postfix", 3, 5, "P2", 7, "S2"], in which "P2" composes the last two results in parallel.
    """
    if tree_depth(tree) > MAX_NESTED_DEPTH:
        return ["postfix", *(_postfix_symbol(node) for node in post_order(tree))]
    done: list[object] = []
    for node in post_order(tree):
        if isinstance(node, int):
            done.append(node)
        else:
            first = len(done) - len(node.children)
            done[first:] = [["S" if isinstance(node, Series) else "P", *done[first:]]]
    return done[0]


def _postfix_symbol(node: Tree) -> int | str:
    if isinstance(node, int):
        return node
    return f"{'S' if isinstance(node, Series) else 'P'}{len(node.children)}"


def from_json(data: object) -> Tree:
    """The tree that `to_json` wrote (nested or postfix); compositions are flattened.

    Raises:
        ValueError: `data` is not such a tree; the message names the first thing that does not belong.
    """
    symbols = data[1:] if isinstance(data, list) and data[:1] == ["postfix"] else _postfix_of_nested(data)
    done: list[Tree] = []
    for symbol in symbols:
        if isinstance(symbol, int) and not isinstance(symbol, bool):
            done.append(symbol)
            continue
        kind, count = _composition(symbol)
        if not 2 <= count <= len(done):
            raise ValueError(f"tree: {symbol!r} follows {len(done)} parts")
        parts = done[-count:]
        del done[-count:]
        done.append(series(parts) if kind == "S" else parallel(parts))
    if len(done) != 1:
        raise ValueError(f"tree: {len(done)} roots")
    return done[0]


def _composition(symbol: object) -> tuple[str, int]:
    if isinstance(symbol, str) and symbol[:1] in ("S", "P") and symbol[1:].isascii() and symbol[1:].isdigit():
        return symbol[0], int(symbol[1:])
    raise ValueError(f"tree: {symbol!r} is neither an op nor a composition")


def _postfix_of_nested(data: object) -> list[object]:
    reverse: list[object] = []
    stack = [data]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            if not part or part[0] not in ("S", "P"):
                raise ValueError(f"tree: {part[:1]!r} opens a list where 'S' or 'P' is expected")
            reverse.append(f"{part[0]}{len(part) - 1}")
            stack.extend(part[1:])
        else:
            reverse.append(part)
    reverse.reverse()
    return reverse


def render_lines(tree: Tree, label: Callable[[int], str] = str, max_lines: int = 1500) -> list[str]:
    """The tree as indented lines, one node each; `label` turns a leaf into words.  The last line says if it was cut."""
    lines: list[str] = []
    stack: list[tuple[Tree, str, str]] = [(tree, "", "")]
    while stack:
        node, first, rest = stack.pop()
        if len(lines) == max_lines:
            lines.append(f"... cut after {max_lines} lines")
            break
        if isinstance(node, int):
            lines.append(first + label(node))
            continue
        lines.append(first + type(node).__name__)
        for at, child in reversed(list(enumerate(node.children, start=1))):
            ends = at == len(node.children)
            stack.append((child, rest + ("└─ " if ends else "├─ "), rest + ("   " if ends else "│  ")))
    return lines

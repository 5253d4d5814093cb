"""The region of a loss replaced by its chunks: one subgraph, called once for each chunk.

    x, targets, ... ──rows 0..255────> chunk ──> part of the loss, of each gradient
                    ──rows 256..511──> chunk ──> ...           parts by rows are put together, sums are added up

What one call needs is scratch memory of that call (`memsched/inductor/storages/subgraphs.py`): one chunk's logits at a
time.  Calls of equally many rows share one subgraph; the last chunk may have fewer, and the first has no sums to add
to.  (Zeros to begin with would be taken for other zeros of the graph, and kept for those.)  The gradient of a large
weight is summed up outside, where it lies (`memsched/inductor/rewrites/add_product.py`): a call gives the operands.

Claim: the graph computes what it did, with every large tensor of the region in parts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx

from memsched.inductor.rewrites.add_product import added_in_place
from memsched.inductor.rewrites.chunk_loss.body import Body
from memsched.inductor.rewrites.chunk_loss.passes import Passes
from memsched.inductor.rewrites.chunk_loss.products import is_product
from memsched.inductor.rewrites.chunk_loss.region import Region
from memsched.inductor.rewrites.chunk_loss.rows import Operand, Piece, rest_of, shape_of
from memsched.inductor.rewrites.nodes import call_with_value
from memsched.inductor.rewrites.realize import realize_operator
from memsched.inductor.rewrites.traversal import sort_nodes

__all__ = ["PART", "replace_by_chunks"]

PART = "memsched_chunk"
"""How the subgraphs are named, in the graph and in the metadata of their modules."""

_aten = torch.ops.aten
_SECOND = 4
"""A gradient of a weight with a fourth of the elements of a chunk's logits is worth it: a call for each chunk."""

_KEPT = ("stack_trace", "nn_module_stack", "source_fn_stack", "original_aten")


def replace_by_chunks(graph: fx.Graph, region: Region, passes: Passes, chunks: int) -> list[fx.Node]:
    """Compute `region` in so many chunks; the calls.

    graph: has an owning module, to which the subgraphs are added.
    """
    builder = _Builder(graph, region, passes, _bounds(region.rows, chunks))
    calls = [call for number in range(passes.count) for call in builder.run_pass(number)]
    for node, result in builder.results.items():
        readers = [user for user in node.users if user not in region.pieces and user not in builder.new]
        for reader in readers:
            reader.replace_input_with(node, result)
    for node in reversed(region.pieces):
        if not node.users:
            graph.erase_node(node)
    sort_nodes(graph)
    graph.eliminate_dead_code()
    graph.lint()
    return calls


def _bounds(rows: int, chunks: int) -> list[tuple[int, int]]:
    size = -(-rows // chunks)
    return [(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


class _Builder:
    """The graph while it grows.

    results: for each output so far, the node that has it whole.
    new: the nodes that were added.
    """

    def __init__(self, graph: fx.Graph, region: Region, passes: Passes, bounds: Sequence[tuple[int, int]]) -> None:
        self.graph, self.region, self.passes, self.bounds = graph, region, passes, bounds
        self.results: dict[fx.Node, fx.Node] = {}
        self.new: set[fx.Node] = set()
        self._fake_mode = region.head.meta["val"].fake_mode
        self._at_one: dict[fx.Node, fx.Node] = {}
        self._cut: dict[Operand, fx.Node] = {}
        self._parts: dict[str, str] = {}

    def run_pass(self, number: int) -> list[fx.Node]:
        """Add the calls of one pass, and what puts its outputs together; the calls."""
        outputs = [node for node in self.region.pieces if self.passes.number[node] == number and self._is_read(node)]
        body = Body(self.region, self._known_before(number), outputs, self._in_place(outputs))
        with self.graph.inserting_before(outputs[0]):
            inputs = [self._input(leaf) for leaf in body.leaves]
            calls, parts, totals = list[fx.Node](), list[list[fx.Node]](), list[fx.Node]()
            products: dict[fx.Node, fx.Node] = {}
            for bound in self.bounds:
                chunk = self._chunk_of(body, inputs, bound)
                calls.append(self._call(body, number, [*chunk, *totals], bound))
                given = body.outputs + body.operands
                parts.append([self._emit(operator.getitem, (calls[-1], at)) for at in range(len(given))])
                totals = parts[-1][: len(body.sums)]
                values = dict(zip(given, parts[-1], strict=True)) | dict(zip(body.leaves, chunk, strict=True))
                for node in body.products:
                    first, second = (values[one] for one in self.region.pieces[node].operands)
                    products[node] = self._add_product(products.get(node), first, second)
            for at, node in enumerate(body.outputs):
                self.results[node] = self._whole(node, [one[at] for one in parts])
            for node, total in products.items():
                # Read as a whole: to the partitioner a result weighs double that is only inlined behind the cut, and
                # it would rather save what the last product reads, and leave that to the backward.
                self.results[node] = self._whole(node, [self._emit(realize_operator, (total,))])
        return calls

    def _in_place(self, outputs: Sequence[fx.Node]) -> list[fx.Node]:
        """The sums of products that are so large, beside a chunk's logits, that a second one would count."""
        begin, end = self.bounds[0]
        logits = (end - begin) * shape_of(self.region.head)[-1]
        sums = [node for node in outputs if self.region.pieces[node].is_sum and is_product(node)]
        return [node for node in sums if len(self.bounds) > 1 and _SECOND * node.meta["val"].numel() >= logits]

    def _add_product(self, total: fx.Node | None, first: fx.Node, second: fx.Node) -> fx.Node:
        if total is None:
            return self._emit(_aten.mm.default, (self._emit(_aten.permute.default, (first, [1, 0])), second))
        added = added_in_place(self.graph, total, first, second)
        for node in added:
            self._note_origin(node, self.region.head)
            self.new.add(node)
        return added[1]

    def _is_read(self, node: fx.Node) -> bool:
        """Whether a node is read outside, or by a later pass that does not compute it again."""
        number, pieces = self.passes.number, self.region.pieces
        if self.region.is_large(node) and not pieces[node].is_sum:
            return any(user not in pieces for user in node.users)
        return any(user not in pieces or number[user] > number[node] or pieces[node].is_sum for user in node.users)

    def _known_before(self, number: int) -> Callable[[fx.Node], bool]:
        return lambda node: node in self.results and self.passes.number[node] < number

    # ---- what goes in

    def _input(self, leaf: Operand) -> fx.Node:
        """The node that has all rows of a leaf as [rows, *rest]; the leaf itself, where it is needed whole."""
        node = self.results.get(leaf.node, leaf.node)
        if node in self.passes.scaled or node is self.passes.tangent:
            node = self._with_one(node)
        if not leaf.rows:
            return node
        if leaf not in self._cut:
            self._cut[leaf] = self._in_rows(node, leaf)
        return self._cut[leaf]

    def _in_rows(self, node: fx.Node, leaf: Operand) -> fx.Node:
        shape = shape_of(node)
        padded = (*([1] * (-min(leaf.rows) - len(shape))), *shape)
        wanted = list(padded)
        for row, size in zip(leaf.rows, leaf.sizes, strict=True):
            wanted[row] = size
        rest = rest_of(len(padded), leaf.rows)
        order = [at + len(padded) for at in (*leaf.rows, *rest)]
        if padded != shape:
            node = self._emit(_aten.view.default, (node, list(padded)))
        if list(padded) != wanted:
            node = self._emit(_aten.expand.default, (node, wanted))
        if order != sorted(order):
            node = self._emit(_aten.permute.default, (node, order))
        flat = [self.region.rows, *(padded[at] for at in rest)]
        return node if list(shape_of(node)) == flat else self._emit(_aten.reshape.default, (node, flat))

    def _with_one(self, node: fx.Node) -> fx.Node:
        """What `node` would be if the tangent were 1."""
        tangent = self.passes.tangent
        assert tangent is not None
        if tangent not in self._at_one:
            value = tangent.meta["val"]
            self._at_one[tangent] = self._emit(
                _aten.full.default, ([], 1), {"dtype": value.dtype, "device": value.device}
            )
        if node not in self._at_one:
            for one in node.all_input_nodes:
                if one in self.passes.scaled:
                    self._with_one(one)
            self._at_one[node] = self._copied(node)
        return self._at_one[node]

    def _copied(self, node: fx.Node) -> fx.Node:
        copy = self.graph.node_copy(node, lambda one: self._at_one.get(one, one))
        copy.meta = {name: value for name, value in node.meta.items() if name in ("val", *_KEPT)}
        self.new.add(copy)
        return copy

    # ---- calls

    def _chunk_of(self, body: Body, inputs: Sequence[fx.Node], bound: tuple[int, int]) -> list[fx.Node]:
        return [
            self._emit(_aten.slice.Tensor, (node, 0, *bound)) if leaf.rows else node
            for leaf, node in zip(body.leaves, inputs, strict=True)
        ]

    def _call(self, body: Body, number: int, arguments: Sequence[fx.Node], bound: tuple[int, int]) -> fx.Node:
        name = self._subgraph(body, number, bound[1] - bound[0], arguments)
        module = self.graph.get_attr(name)
        self.new.add(module)
        call = self.graph.call_function(torch.ops.higher_order.invoke_subgraph, (module, name, *arguments))
        part = getattr(self.graph.owning_module, name)
        call.meta = {"val": tuple(one.meta["val"] for one in part.graph.output_node().args[0])}
        self._note_origin(call, self.region.head)
        self.new.add(call)
        return call

    def _subgraph(self, body: Body, number: int, rows: int, arguments: Sequence[fx.Node]) -> str:
        """The name of the subgraph for chunks of so many rows; equal blocks of a model share theirs."""
        owner = self.graph.owning_module
        assert owner is not None
        first = "first_" if body.sums and len(arguments) == len(body.leaves) else ""
        name = f"{PART}_{self.region.head.name}_{number}_{first}{rows}"
        if name not in self._parts:
            values = [node.meta["val"] for node in arguments]
            with self._fake_mode, torch.no_grad(), torch._C._DisableAutocast():
                part = make_fx(lambda *inputs: body.run(rows, inputs), select_decomp_table())(*values)
            part.graph.eliminate_dead_code()
            part.recompile()
            part.meta[PART] = _contents(part)
            known = (other for other, module in owner.named_children() if module.meta.get(PART) == part.meta[PART])
            self._parts[name] = next(known, name)
            if self._parts[name] == name:
                setattr(owner, name, part)
        return self._parts[name]

    # ---- what comes out

    def _whole(self, node: fx.Node, parts: Sequence[fx.Node]) -> fx.Node:
        """The result of `node` from those of all chunks."""
        piece, value = self.region.pieces[node], node.meta["val"]
        whole = parts[-1] if piece.is_sum else self._put_together(node, piece, parts)
        if node in self.passes.scaled:
            whole = self._emit(_aten.mul.Tensor, (whole, self.passes.tangent))
        if whole.meta["val"].dtype != value.dtype:
            whole = self._emit(torch.ops.prims.convert_element_type.default, (whole, value.dtype))
        if whole.meta["val"].stride() != value.stride() and value.is_contiguous():
            whole = self._emit(_aten.clone.default, (whole,), {"memory_format": torch.contiguous_format})
        self._note_origin(whole, node)
        return whole

    def _put_together(self, node: fx.Node, piece: Piece, parts: Sequence[fx.Node]) -> fx.Node:
        shape = shape_of(node)
        rest = rest_of(len(shape), piece.rows)
        whole = self._emit(_aten.cat.default, (list(parts),)) if len(parts) > 1 else parts[0]
        order = [*piece.rows, *rest]
        sizes = [shape[at] for at in order]
        if list(shape_of(whole)) != sizes:
            whole = self._emit(_aten.view.default, (whole, sizes))
        back = [order.index(at) for at in range(-len(shape), 0)]
        return whole if back == sorted(back) else self._emit(_aten.permute.default, (whole, back))

    def _emit(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> fx.Node:
        """A node whose value is computed on fake tensors."""
        with self._fake_mode, torch.no_grad():
            node = call_with_value(self.graph, target, args, kwargs)
        self._note_origin(node, self.region.head)
        self.new.add(node)
        return node

    def _note_origin(self, node: fx.Node, source: fx.Node) -> None:
        node.meta.update({name: source.meta[name] for name in _KEPT if name in source.meta})


def _contents(part: fx.GraphModule) -> tuple[str, ...]:
    """What tells subgraphs apart: their operators, and the sizes, strides and types of what they are given."""
    given = (node.meta["val"] for node in part.graph.find_nodes(op="placeholder"))
    return (part.code, *(f"{tuple(one.shape)} {one.stride()} {one.dtype} {one.device}" for one in given))

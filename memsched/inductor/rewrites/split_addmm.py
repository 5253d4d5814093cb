"""A matrix product does not wait for what is to be added to it.

Inductor turns `add(x, mm(a, b))` into `addmm(x, a, b)` before it knows any order.  Where `x` comes late, `a` and `b`
now live until then.  With tied weights that is the whole backward: the gradient of the logits waits for the gradient of
the embedding, the last of all.

    logits' gradient ──> mm ─────────────────────────> add         the product waits:   the bytes of a weight
    logits' gradient ──────────────────────> addmm                 the operands wait:   the bytes of the logits
                  embedding's gradient ──────^

So such an `addmm` is taken apart again, where what then waits is smaller than what waited: the operands that nothing
reads later, against the product.  `x` must be a buffer of its own: a sum that Inductor would inline collects all its
terms first (gradients of weights that are used many times), and is left alone.

Claim: no operand is read later than before, and the product is smaller than the operands that it lets go.
"""

from __future__ import annotations

import torch
from torch import fx

from memsched.inductor.rewrites.nodes import bytes_of, is_static, is_view, storage_of

__all__ = ["split_waiting_products"]

aten = torch.ops.aten


def split_waiting_products(graph: fx.Graph) -> list[fx.Node]:
    """Replace each `addmm` that waits by a product and a sum; returns the sums.

    graph: of ATen operators in a legal order, which stands for the order in which they will run.
    """
    place = {node: at for at, node in enumerate(graph.nodes)}
    waiting = [node for node in graph.nodes if node.target is aten.addmm.default and _waits(node, place)]
    return [_split(graph, node) for node in waiting]


def _waits(node: fx.Node, place: dict[fx.Node, int]) -> bool:
    added, *operands = node.args
    if node.kwargs or not isinstance(added, fx.Node) or not _is_buffer(added):
        return False
    if not is_static(node) or len(added.users) > 1 or added.meta["val"].shape != node.meta["val"].shape:
        return False
    storages = {storage_of(operand) for operand in operands if isinstance(operand, fx.Node)}
    if place[added] < max(place[storage] for storage in storages):
        return False
    released = [one for one in storages if is_static(one) and _is_released(one, node, place[added], place)]
    return sum(bytes_of(storage) for storage in released) > bytes_of(node)


def _is_buffer(node: fx.Node) -> bool:
    """Whether Inductor gives the result memory of its own as soon as it is computed."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise not in target.tags and not is_view(node)


def _is_released(storage: fx.Node, product: fx.Node, until: int, place: dict[fx.Node, int]) -> bool:
    """Whether only `product` keeps `storage` alive beyond the place `until`."""
    readers, seen = [storage], 0
    while seen < len(readers):
        if any(user.op == "output" for user in readers[seen].users):
            return False
        readers += [user for user in readers[seen].users if is_view(user)]
        seen += 1
    last = max((place[user] for reader in readers for user in reader.users if user is not product), default=-1)
    return storage.op != "placeholder" and last < until


def _split(graph: fx.Graph, node: fx.Node) -> fx.Node:
    added, first, second = node.args
    with graph.inserting_before(node):
        product = graph.call_function(aten.mm.default, (first, second))
        total = graph.call_function(aten.add.Tensor, (added, product))
    # Two buffers: passes that write in place take values of one storage for views.
    product.meta, total.meta = node.meta | {"val": torch.empty_like(node.meta["val"])}, dict(node.meta)
    node.replace_all_uses_with(total)
    graph.erase_node(node)
    return total

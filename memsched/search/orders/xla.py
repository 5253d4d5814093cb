"""XLA's three memory schedulers, for comparison: list, depth-first and post-order.

XLA's default (`xla/service/hlo_memory_scheduler.cc`, DefaultMemoryScheduler) keeps the best of three orders:

    list        greedy: the ready op that frees the most bytes net of what it defines, then the one with more users
    dfs         post-order from the roots; an op's operands with more transitive "extra users" (users - 1) are visited
                first, then those with more transitive bytes
    post_order  post-order from the roots with the operands as they come

Its own header draws how the list scheduler fails: it puts B off because B frees nothing and defines much.

              ┌──> B ══> C ──────────┐       list:     A D E F B C G
        A ────┼──> D ──┐             v       optimum:  A B C D E F G
              └──> E ──┴──> F ═════> G

With single arrows of 1 byte and double arrows of 2 the header counts 6 and 5; replayed, both orders need 5 (the 6 is
that of A D E B F C G, which the scheduler does not produce).  With 3 bytes on B the list order is the same and the
figures are the header's: 6 against 5.  The tests hold both.

Ties: XLA breaks them by insertion order (list) and by name (dfs); here both end in the op index, so that names do not
matter.  XLA's rule for scalars (always first) and for infeed, outfeed and called computations have no counterpart in a
graph of kernels and are left out.
"""

from __future__ import annotations

import heapq

from memsched.core.graph import Graph
from memsched.search.orders.inductor import post_order

__all__ = ["xla_dfs_order", "xla_list_order", "xla_orders", "xla_post_order"]


def xla_orders(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The three candidates by name, in the order in which XLA prefers them on equal peaks."""
    return {
        "xla_list": xla_list_order(graph),
        "xla_dfs": xla_dfs_order(graph),
        "xla_post_order": xla_post_order(graph),
    }


def xla_list_order(graph: Graph) -> tuple[int, ...]:
    """Greedy: most (bytes freed - bytes defined), then most users, then the least index."""
    unread = [len(buffer.consumers) + buffer.kept for buffer in graph.buffers]
    missing = [len(before) for before in graph.predecessors]
    current: dict[int, int] = {}
    ready: list[tuple[int, int, int]] = []
    order: list[int] = []

    def push(op: int) -> None:
        freed = sum(graph.buffers[index].size for index in graph.inputs_of[op] if unread[index] == 1)
        current[op] = graph.output_bytes[op] - freed
        heapq.heappush(ready, (current[op], -len(graph.successors[op]), op))

    for op, count in enumerate(missing):
        if not count:
            push(op)
    while ready:
        net, _, op = heapq.heappop(ready)
        if current.get(op) != net:
            continue  # superseded by an entry with a lower net, or already run
        del current[op]
        order.append(op)
        for index in graph.inputs_of[op]:
            unread[index] -= 1
        for successor in graph.successors[op]:
            missing[successor] -= 1
            if not missing[successor]:
                push(successor)
        for index in graph.inputs_of[op]:
            if unread[index] == 1:
                for consumer in graph.buffers[index].consumers:
                    if consumer in current:
                        push(consumer)
    return tuple(order)


def xla_dfs_order(graph: Graph) -> tuple[int, ...]:
    """Post-order; operands with more transitive extra users first, then with more transitive bytes."""
    extra_users = [0] * len(graph)
    total_bytes = [0] * len(graph)
    seen_bytes = 0
    for op in graph.topological_order:
        before = graph.predecessors[op]
        seen_bytes += graph.output_bytes[op]
        users = max(0, len(graph.successors[op]) - 1) + sum(extra_users[other] for other in before)
        # XLA's caps: paths are counted, not ops, and their number may be exponential
        extra_users[op] = min(users, len(graph))
        total_bytes[op] = min(graph.output_bytes[op] + sum(total_bytes[other] for other in before), seen_bytes)
    keys = [(-extra_users[op], -total_bytes[op], op) for op in range(len(graph))]
    return post_order(graph.predecessors, keys, _roots(graph))


def xla_post_order(graph: Graph) -> tuple[int, ...]:
    """Post-order from the ops that nothing follows, operands by index."""
    return post_order(graph.predecessors, [(op,) for op in range(len(graph))], _roots(graph))


def _roots(graph: Graph) -> list[int]:
    return [op for op, after in enumerate(graph.successors) if not after]

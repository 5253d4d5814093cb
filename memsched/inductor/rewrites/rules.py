"""The rules that change a traced graph, in the order in which they run; each is one file or folder here.

    TRACE_RULES    over the graph that Dynamo traced, before it is differentiated
    chunk_rules    over the joint graph of forward and backward, before anything else
    CUT_RULES      over the joint graph, before it is cut into forward and backward
    GRAPH_RULES    over each of the two, as Inductor is about to lower it

A rule changes a graph in place and returns the nodes that it changed.  Each runs as a pass of its own, so a rule that
fails leaves the others standing, and every report says how often each was applied (`GraphReport.rewrites`).  To add a
rewrite: one file, its test, and a line here.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from memsched.inductor.rewrites.checkpoint_blocks import checkpoint_blocks
from memsched.inductor.rewrites.chunk_loss import chunk_loss, chunk_tokens
from memsched.inductor.rewrites.keep_checkpoints import keep_checkpoints
from memsched.inductor.rewrites.keep_saved_layout import save_inputs_as_they_are
from memsched.inductor.rewrites.realize_sums import realize_sums
from memsched.inductor.rewrites.recompute_parameter_casts import recompute_parameter_casts
from memsched.inductor.rewrites.rows_before_projection import rows_before_projection
from memsched.inductor.rewrites.save_random import save_random
from memsched.inductor.rewrites.split_addmm import split_waiting_products
from memsched.inductor.rewrites.split_convolution_backward import split_convolution_gradients
from memsched.inductor.rewrites.split_embedding_gradient import split_embedding_gradients

__all__ = [
    "CUT_RULES",
    "GRAPH_RULES",
    "SAVE_RANDOM",
    "TRACE_RULES",
    "Rule",
    "apply_rule",
    "checkpoint_rule",
    "chunk_rules",
    "forget_rule",
    "rewrites_of",
    "rule_of",
]

log = logging.getLogger("memsched")

_RULE = "memsched_rule"
"""Where the name of the rule that changed a node is noted, among the annotations in its `meta` (torch.fx.traceback):
tracing and the cut copy those along."""


@dataclass(frozen=True, slots=True)
class Rule:
    """name: as reports have it; doing: what it does, for warnings; change: the rule.

    is_judged: whether it may raise the peak.  Of `CUT_RULES`, which only tag: the step is cut with its tags and without
        them, and the cuts are compared; of `GRAPH_RULES`: the graph is planned both ways.
    """

    name: str
    doing: str
    change: Callable[[fx.Graph], list[fx.Node]]
    is_judged: bool = False


TRACE_RULES = (Rule("rows_before_projection", "picking rows before a projection", rows_before_projection),)

CUT_RULES = (
    Rule("keep_checkpoints", "keeping checkpoints", keep_checkpoints, is_judged=True),
    # Behind the checkpoints: its tags must not look like the inside of one.
    Rule("recompute_parameter_casts", "recomputing casts of parameters", recompute_parameter_casts),
)


SAVE_RANDOM = Rule("save_random", "saving random operators", save_random)
"""The rule that follows `CUT_RULES` when the partitioner may choose what to recompute (`activation_memory_budget`)."""


def chunk_rules(loss: int, tokens: int) -> list[Rule]:
    """The rules over the joint graph, before all others, when the loss or blocks are to be computed in so many parts.

    The loss goes first: what is left of it is no block.
    """
    in_chunks = Rule("chunk_loss", "chunking the loss", functools.partial(chunk_loss, chunks=loss))
    in_tokens = Rule("chunk_tokens", "chunking blocks", functools.partial(chunk_tokens, chunks=tokens))
    return [rule for rule, parts in ((in_chunks, loss), (in_tokens, tokens)) if parts]


def checkpoint_rule(every: int, share: float = 1.0) -> Rule:
    """The rule of `CUT_RULES` that is there when it is asked for: checkpoints in the first `share` of the blocks."""
    name = "checkpoint_blocks"
    return Rule(name, "checkpointing blocks", functools.partial(checkpoint_blocks, every=every, share=share))


GRAPH_RULES = (
    Rule("realize_sums", "realizing sums", realize_sums, is_judged=True),
    Rule("split_addmm", "splitting products that wait", split_waiting_products),
    Rule("split_convolution_backward", "splitting gradients of convolutions", split_convolution_gradients),
    Rule("split_embedding_gradient", "splitting gradients of embeddings", split_embedding_gradients),
    Rule("keep_saved_layout", "saving inputs as they are", save_inputs_as_they_are),
)


def apply_rule(rule: Rule, graph: fx.Graph) -> int:
    """Change `graph`, note the rule at each node that it changed; how many those are."""
    changed = rule.change(graph)
    for node in changed:
        node.meta["custom"] = {**node.meta.get("custom", {}), _RULE: rule.name}
    log.debug("memsched: %s changed %d nodes %s", rule.name, len(changed), [node.name for node in changed])
    return len(changed)


def rule_of(node: fx.Node) -> str:
    """The name of the rule that changed `node`; "" for none."""
    return str(node.meta.get("custom", {}).get(_RULE, ""))


def forget_rule(node: fx.Node) -> None:
    """`node` is as if no rule had changed it."""
    node.meta["custom"] = {key: what for key, what in node.meta.get("custom", {}).items() if key != _RULE}


def rewrites_of(graph: fx.Graph) -> dict[str, int]:
    """How many nodes of `graph` each rule has changed, by its name; rules that changed nothing are left out."""
    found: dict[str, int] = {}
    for name in filter(None, map(rule_of, graph.nodes)):
        found[name] = found.get(name, 0) + 1
    return found

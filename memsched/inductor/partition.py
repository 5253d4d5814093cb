"""The cut of a training step into its forward and its backward: what is saved and what is computed again.

    joint graph ──> rules tag what must be saved and what must be recomputed ──> the partitioner ──> forward, backward
              └───> the same without the tags that may raise the peak ─────────> the partitioner ──> forward, backward
                                                      the halves of which the higher one is estimated to need less

The rules are `CUT_RULES`; the partitioner is Inductor's, or the one that the user has set.  Inductor calls this in the
place that it has for partitioners, where it also says which inputs are parameters (`partition_fn`,
torch/_inductor/compile_fx.py).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import fx
from torch._functorch import config as functorch_config
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.custom_graph_pass import CustomPartitionerFn

from memsched.inductor.estimate import estimated_peak
from memsched.inductor.failures import stock_goes_on
from memsched.inductor.options import BackendOptions
from memsched.inductor.plan_key import plan_key
from memsched.inductor.rewrites.idle import warn_of_idle_offload
from memsched.inductor.rewrites.keep_saved_layout import note_layout_readers
from memsched.inductor.rewrites.offload import offload_saved
from memsched.inductor.rewrites.parameters import note_parameters
from memsched.inductor.rewrites.rules import SAVE_RANDOM, Rule, apply_rule, forget_rule, rule_of

__all__ = ["PlannedPartition", "apply_guarded"]

log = logging.getLogger("memsched")

_Halves = tuple[fx.GraphModule, fx.GraphModule]
_Partitioner = Callable[..., _Halves]

_ESTIMATE_SHARE = 0.1
"""Of the time limit of planning a graph, for the estimate of a half."""


class PlannedPartition(CustomPartitionerFn):  # type: ignore[misc]
    """The rules, each guarded, then the partitioner.

    partitioner: of the user; None for Inductor's.
    """

    def __init__(
        self, rules: Sequence[Rule], options: BackendOptions, partitioner: CustomPartitionerFn | None = None
    ) -> None:
        self.rules = tuple(rules)
        self.options = options
        self.partitioner = partitioner

    def __call__(self, gm: fx.GraphModule, joint_inputs: Sequence[object], **more: Any) -> _Halves:
        untagged: fx.GraphModule | None = None
        with stock_goes_on("what is saved", "tagging what is saved", strict=self.options.strict):
            untagged = self._tag(gm, more.get("static_lifetime_input_indices") or ())
        halves = self._cut(gm, joint_inputs, more)
        if untagged is not None:
            others = self._cut(untagged, joint_inputs, more)
            if self._needs_less(others, halves):
                log.debug("memsched: tags that would raise the peak are taken back")
                halves = others
        with stock_goes_on("the layout of what is saved", "noting readers", strict=self.options.strict):
            note_layout_readers(*(half.graph for half in halves))
        return self._offloaded(halves, more["num_fwd_outputs"]) if self.options.setting.offload_share else halves

    def _offloaded(self, halves: _Halves, num_results: int) -> _Halves:
        """The halves with saved tensors on the host; as they were where that fails, since one alone may be changed."""
        forward, backward = (fx.GraphModule(half, copy.deepcopy(half.graph)) for half in halves)
        with stock_goes_on("what waits on the host", "offloading", strict=self.options.strict):
            warn_of_idle_offload(offload_saved(*halves, num_results, self.options.setting.offload_share))
            return halves
        return forward, backward

    def _tag(self, gm: fx.GraphModule, parameters: Sequence[int]) -> fx.GraphModule | None:
        """Apply the rules; a copy without the tags that may raise the peak, where there are such.

        parameters: which inputs of the graph are parameters.
        """
        note_parameters(gm.graph, parameters)
        rules = self._rules_now()
        changed = {rule.name: apply_guarded(rule, gm.graph, strict=self.options.strict) for rule in rules}
        judged = {rule.name for rule in rules if rule.is_judged and changed[rule.name]}
        return _without_tags(gm, judged) if judged else None

    def _rules_now(self) -> tuple[Rule, ...]:
        """The rules, and one more where the partitioner may choose what to recompute: it would draw dropout anew."""
        chooses = min(self.options.setting.saved_share, functorch_config.activation_memory_budget) < 1
        return (*self.rules, SAVE_RANDOM) if chooses else self.rules

    def _cut(self, gm: fx.GraphModule, joint_inputs: Sequence[object], more: Mapping[str, Any]) -> _Halves:
        partition: _Partitioner = self.partitioner or min_cut_rematerialization_partition
        share = self.options.setting.saved_share
        with functorch_config.patch({"activation_memory_budget": share} if share < 1 else {}):
            return partition(gm, joint_inputs, **more)

    def _needs_less(self, halves: _Halves, others: _Halves) -> bool:
        """Whether the step of `halves` is estimated to need less than that of `others`; not where that fails."""
        limit = self.options.time_limit_s * _ESTIMATE_SHARE
        with stock_goes_on("comparing cuts", "comparing cuts", strict=self.options.strict):
            one, other = (max(estimated_peak(half.graph, limit) for half in some) for some in (halves, others))
            return one < other
        return False

    def uuid(self) -> Any:
        """None, which switches the cache off, if the user's partitioner has none."""
        theirs = self.partitioner.uuid() if self.partitioner is not None else ""
        return None if theirs is None else f"{[rule.name for rule in self.rules]} {plan_key(self.options)}\n{theirs}"


def _without_tags(gm: fx.GraphModule, rules: Collection[str]) -> fx.GraphModule:
    """A graph of its own, over the same attributes, without the tags that `rules` have set."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    graph.output_node().meta = dict(gm.graph.output_node().meta)
    for node in graph.nodes:
        if rule_of(node) in rules:
            del node.meta["recompute"]
            forget_rule(node)
    return fx.GraphModule(gm, graph)


def apply_guarded(rule: Rule, graph: fx.Graph, *, strict: bool) -> int:
    """How many nodes the rule changed; a failure leaves what is left to change to stock, and is told once."""
    with stock_goes_on(rule.doing, rule.doing, strict=strict):
        return apply_rule(rule, graph)
    return 0

"""The cut of a training step into its forward and its backward: what is saved and what is computed again.

    joint graph ──> rules tag what must be saved and what must be recomputed ──> the partitioner ──> forward, backward

The rules are `CUT_RULES`; the partitioner is Inductor's, or the one that the user has set.  Inductor calls this in the
place that it has for partitioners, where it also says which inputs are parameters (`partition_fn`,
torch/_inductor/compile_fx.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx
from torch._functorch import config as functorch_config
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.custom_graph_pass import CustomPartitionerFn

from memsched.inductor.failures import leave_to_stock, reason_of
from memsched.inductor.options import BackendOptions
from memsched.inductor.plan_key import plan_key
from memsched.inductor.rewrites.parameters import note_parameters
from memsched.inductor.rewrites.rules import Rule, apply_rule

__all__ = ["PlannedPartition", "apply_guarded"]

_Partitioner = Callable[..., tuple[fx.GraphModule, fx.GraphModule]]


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

    def __call__(
        self, gm: fx.GraphModule, joint_inputs: Sequence[object], **more: Any
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        note_parameters(gm.graph, more.get("static_lifetime_input_indices") or ())
        for rule in self.rules:
            apply_guarded(rule, gm.graph, strict=self.options.strict)
        partition: _Partitioner = self.partitioner or min_cut_rematerialization_partition
        share = self.options.setting.saved_share
        with functorch_config.patch({"activation_memory_budget": share} if share < 1 else {}):
            return partition(gm, joint_inputs, **more)

    def uuid(self) -> Any:
        """None, which switches the cache off, if the user's partitioner has none."""
        theirs = self.partitioner.uuid() if self.partitioner is not None else ""
        return None if theirs is None else f"{[rule.name for rule in self.rules]} {plan_key(self.options)}\n{theirs}"


def apply_guarded(rule: Rule, graph: fx.Graph, *, strict: bool) -> int:
    """How many nodes the rule changed; a failure leaves what is left to change to stock, and is told once."""
    try:
        return apply_rule(rule, graph)
    except Exception as error:
        if strict:
            raise
        leave_to_stock(rule.doing, rule.doing, reason_of(error))
        return 0

"""The passes through which memsched speaks to Inductor: over the scheduler's nodes, and over traced graphs.

All carry one hash in their `uuid`: of memsched's sources, the options, and the versions of torch and of the solvers.
Inductor puts it into the key of its FX-graph cache, so a graph that was planned once is loaded with its order, and a
change of anything that could change a plan misses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.virtualized import V

from memsched.inductor.choices import PlannedChoices
from memsched.inductor.compat import SchedulerPass
from memsched.inductor.host import stock_reorder
from memsched.inductor.options import BackendOptions
from memsched.inductor.partition import apply_guarded
from memsched.inductor.plan_key import plan_key
from memsched.inductor.publish import Sink, publish
from memsched.inductor.rewrites.rules import Rule
from memsched.inductor.session import begin_session, session_of
from memsched.inductor.storages.saved_copies import noted_copies

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["PostFusionPass", "PreFusionPass", "RewritePass", "behind"]


class PreFusionPass(SchedulerPass):  # type: ignore[misc]
    """Begins a session for the scheduler, whose report goes to `sink`; returns the nodes as they came."""

    def __init__(self, options: BackendOptions, sink: Sink = publish) -> None:
        self.options = options
        self.sink = sink

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        session = begin_session(self.options, self.sink)
        if session is None:
            return nodes
        if not isinstance(V.choices, PlannedChoices):
            # Config patches alone do not choose: Inductor keeps the choices of a thread's first compile.
            session.until_fused.enter_context(V.set_choices_handler(PlannedChoices(self.options)))
        return session.before_fusion(nodes)

    def uuid(self) -> str:
        return plan_key(self.options)


class PostFusionPass(SchedulerPass):  # type: ignore[misc]
    """Orders the fused nodes; as stock would where no session could begin, since stock's own reorder is off."""

    def __init__(self, options: BackendOptions) -> None:
        self.options = options

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        session = session_of(V.graph.scheduler)
        if session is None:
            return stock_reorder(nodes) if nodes else nodes
        session.until_fused.close()
        return session.after_fusion(nodes)

    def uuid(self) -> str:
        """Also of what the forward noted for its backward, which the graph does not show."""
        return "\n".join((plan_key(self.options), *sorted(noted_copies())))


def behind(first: Any, planning: PreFusionPass | PostFusionPass) -> SchedulerPass:
    """`planning`, after the pass that the user has in the same place, if there is one that is not memsched's."""
    ours = isinstance(first, (PreFusionPass, PostFusionPass, _Behind))
    return planning if first is None or ours else _Behind(first, planning)


class _Behind(SchedulerPass):  # type: ignore[misc]
    """A pass of the user's over the scheduler's nodes, then one of memsched's."""

    def __init__(self, first: Callable[[list[Any]], list[Any]], planning: PreFusionPass | PostFusionPass) -> None:
        self.first = first
        self.planning = planning

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        return self.planning(self.first(nodes))

    def uuid(self) -> str:
        """Of both; a pass without a hash of its own is told from all others of this process, and loads nothing."""
        own = self.first.uuid() if isinstance(self.first, CustomGraphPass | SchedulerPass) else None
        return f"{own or f'{os.getpid()} {id(self.first)} {time.time_ns()}'}\n{self.planning.uuid()}"


class RewritePass(CustomGraphPass):  # type: ignore[misc]
    """One rule over the traced graph; a failure leaves what is left to change to stock, and is told once.

    changed: how many nodes it has changed so far.
    """

    def __init__(self, rule: Rule, options: BackendOptions) -> None:
        self.rule = rule
        self.options = options
        self.changed = 0

    def __call__(self, graph: fx.Graph) -> None:
        self.changed += apply_guarded(self.rule, graph, strict=self.options.strict)

    def uuid(self) -> str:
        return f"{self.rule.name} {plan_key(self.options)}"

"""The passes through which memsched speaks to Inductor: over the scheduler's nodes, and over traced graphs.

All carry one hash in their `uuid`: of memsched's sources, the options, and the versions of torch and of the solvers.
Inductor puts it into the key of its FX-graph cache, so a graph that was planned once is loaded with its order, and a
change of anything that could change a plan misses.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from enum import Enum
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
from memsched.inductor.stopping import StopCompile
from memsched.inductor.storages.saved_copies import noted_copies

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["Judgment", "PostFusionPass", "PreFusionPass", "RewritePass", "Undecided", "behind"]


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

    def reporting_through(self, change: Callable[[Sink], Sink]) -> PreFusionPass:
        """The same pass, but for where its reports go; change: what is put in the place of its sink."""
        other = copy.copy(self)
        other.sink = change(self.sink)
        return other

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

    def reporting_through(self, change: Callable[[Sink], Sink]) -> _Behind:
        """The same passes, but for where the reports of memsched's go, which is one before fusion."""
        assert isinstance(self.planning, PreFusionPass)
        return _Behind(self.first, self.planning.reporting_through(change))

    def uuid(self) -> str:
        """Of both; a pass without a hash of its own is told from all others of this process, and loads nothing."""
        own = self.first.uuid() if isinstance(self.first, CustomGraphPass | SchedulerPass) else None
        return f"{own or f'{os.getpid()} {id(self.first)} {time.time_ns()}'}\n{self.planning.uuid()}"


class Judgment(Enum):
    """What becomes of a rule that may raise the peak of the graph that is being lowered."""

    NOBODY = "nobody judges"
    """The rule does what it estimates to be better."""
    OPEN = "not known yet"
    """The compile ends with `Undecided` where the rule has something to change."""
    WITH = "the graph is better with it"
    WITHOUT = "the graph is better without it"


class Undecided(StopCompile):
    """A judged rule has changed a graph: whether it shall must be found out (`memsched.inductor.lowered_twice`)."""


class RewritePass(CustomGraphPass):  # type: ignore[misc]
    """One rule over the traced graph; a failure leaves what is left to change to stock, and is told once."""

    def __init__(self, rule: Rule, options: BackendOptions, judgment: Judgment = Judgment.NOBODY) -> None:
        self.rule = rule
        self.options = options
        self.judgment = judgment

    def __call__(self, graph: fx.Graph) -> None:
        if self.judgment is Judgment.WITHOUT:
            return
        if apply_guarded(self.rule, graph, strict=self.options.strict) and self.judgment is Judgment.OPEN:
            raise Undecided(self.rule.name)

    def at(self, judgment: Judgment) -> RewritePass:
        """The same rule under another judgment."""
        return RewritePass(self.rule, self.options, judgment)

    def uuid(self) -> str:
        """One for all judgments but nobody's: which of them it is follows from the graph."""
        by = "" if self.judgment is Judgment.NOBODY else " judged by the plan"
        return f"{self.rule.name}{by} {plan_key(self.options)}"

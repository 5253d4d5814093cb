"""The passes through which memsched speaks to Inductor: over the scheduler's nodes, and over traced graphs.

All carry one hash in their `uuid`: of memsched's sources, the options, and the versions of torch and of the solvers.
Inductor puts it into the key of its FX-graph cache, so a graph that was planned once is loaded with its order, and a
change of anything that could change a plan misses.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.virtualized import V

from memsched.inductor.compat import SchedulerPass
from memsched.inductor.failures import leave_to_stock, reason_of
from memsched.inductor.host import stock_reorder
from memsched.inductor.options import BackendOptions
from memsched.inductor.publish import Sink, publish
from memsched.inductor.rewrites.rules import Rule, apply_rule
from memsched.inductor.session import begin_session, session_of
from memsched.inductor.storages.saved_copies import noted_copies

if TYPE_CHECKING:
    from torch._inductor.scheduler import BaseSchedulerNode

__all__ = ["PostFusionPass", "PreFusionPass", "RewritePass", "plan_key"]


_SOLVERS = ("ortools", "pulp", "highspy", "numpy")


class PreFusionPass(SchedulerPass):  # type: ignore[misc]
    """Begins a session for the scheduler, whose report goes to `sink`; returns the nodes as they came."""

    def __init__(self, options: BackendOptions, sink: Sink = publish) -> None:
        self.options = options
        self.sink = sink

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        session = begin_session(self.options, self.sink)
        return nodes if session is None else session.before_fusion(nodes)

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
        return session.after_fusion(nodes)

    def uuid(self) -> str:
        """Also of what the forward noted for its backward, which the graph does not show."""
        return "\n".join((plan_key(self.options), *sorted(noted_copies())))


class RewritePass(CustomGraphPass):  # type: ignore[misc]
    """One rule over the traced graph; a failure leaves what is left to change to stock, and is told once.

    changed: how many nodes it has changed so far.
    """

    def __init__(self, rule: Rule, options: BackendOptions) -> None:
        self.rule = rule
        self.options = options
        self.changed = 0

    def __call__(self, graph: fx.Graph) -> None:
        try:
            self.changed += apply_rule(self.rule, graph)
        except Exception as error:
            if self.options.strict:
                raise
            leave_to_stock(self.rule.doing, self.rule.doing, reason_of(error))

    def uuid(self) -> str:
        return f"{self.rule.name} {plan_key(self.options)}"


def plan_key(options: BackendOptions) -> str:
    """A hash of all that decides a plan apart from the graph itself."""
    # What an operator needs while it runs may grow with the threads (`workspaces.py`).
    parts = [_sources_hash(), repr(options), torch.__version__, f"{torch.get_num_threads()} threads"]
    return hashlib.sha256("\n".join(parts + _solver_versions()).encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _sources_hash() -> str:
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _solver_versions() -> list[str]:
    versions = []
    for name in _SOLVERS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} is missing")
    return versions

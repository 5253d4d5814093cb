"""What was asked for by name and found nothing to change: one line, since a user would take it for done."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from torch import fx
from torch._guards import CompileContext

from memsched.levers.setting import Setting
from memsched.records.report import GraphKind, GraphReport

__all__ = ["warn_of_idle_chunks", "warn_of_idle_offload"]

log = logging.getLogger("memsched")

_FOUND = {
    "chunk_loss": "no loss that can be computed in so many chunks of tokens",
    "chunk_tokens": "no blocks whose inside can be computed in so many chunks of tokens",
}


def warn_of_idle_chunks(setting: Setting, reports: Sequence[GraphReport]) -> None:
    """Warn of parts that `setting` asks for where none of the graphs, planned just now, has any."""
    trained = [report for report in reports if report.kind in (GraphKind.FORWARD, GraphKind.STEP)]
    asked = {"chunk_loss": setting.chunks, "chunk_tokens": setting.token_chunks}
    for name, parts in asked.items():
        if parts and trained and not any(name in report.rewrites for report in reports):
            log.warning("memsched: %s=%d changed nothing: %s was found (DEBUG says why)", name, parts, _FOUND[name])


def warn_of_idle_offload(moved: Sequence[fx.Node]) -> None:
    """Warn, once for each compile, where `offload` was asked for and no saved tensor can wait on the host."""
    if not moved:
        _warn_once(str(CompileContext.current_compile_id()))


@functools.lru_cache(maxsize=64)
def _warn_once(_of_compile: str) -> None:
    """A compile may cut its graph again and again, to choose a setting."""
    log.warning("memsched: offload changed nothing: what is saved is on no GPU, or an input, a result or a view")

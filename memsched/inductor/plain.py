"""memsched as plain options of Inductor, for code that names the backend itself: accelerate, Trainer, AOT compile.

    torch.compile(model, options=memsched.options(time_limit_s=5))      # backend="inductor", as they insist
    memsched.install()                                                  # all compiles from here on, until uninstall()

Both are the config patches of the backend.  What the backend does beyond patches is refused by name: levers that are
chosen for each graph (`peak_budget`, `chunk_loss="auto"`), and `saved_share`, which is not Inductor's to set.  One
thing is done with less care: sums are realized by an estimate, where the backend plans both ways (`lowered_twice`).
"""

from __future__ import annotations

import threading
from typing import Any

from torch._inductor import config

from memsched.inductor.backend import partition_patches, planning_patches
from memsched.inductor.compat import unsupported_reason
from memsched.inductor.options import split_options

__all__ = ["install", "options", "uninstall"]

_lock = threading.Lock()
_before: dict[str, Any] = {}
"""What Inductor's config had where `install` wrote; empty when nothing is installed."""


def options(**given: Any) -> dict[str, Any]:
    """The options for `torch.compile(model, options=...)` with Inductor as the backend.

    given: options of memsched's backend, and any of Inductor's own, which are passed on.

    Raises:
        ValueError: an option that neither knows, or that only the backend can honor; one line.
    """
    own, inductor = split_options(given)
    if own.pulled:
        raise ValueError(
            'memsched: peak_budget and chunk_loss="auto" need backend="memsched"; memsched.fit finds the options that '
            "keep a budget"
        )
    reason = unsupported_reason()
    if reason and own.strict:
        raise ValueError(f"memsched: {reason}")
    if reason or not own.enabled:
        return inductor
    return {**inductor, **planning_patches(own, inductor), **partition_patches(own, inductor)}


def install(**given: Any) -> None:
    """Let memsched plan every graph that Inductor compiles in this process, until `uninstall`; `given` as in `options`.

    Raises:
        ValueError: as `options`.
    """
    uninstall()
    patches = options(**given)
    with _lock:
        for name, value in patches.items():
            _before[name] = getattr(config, name)
            setattr(config, name, value)


def uninstall() -> None:
    """Put Inductor's config back as it was before `install`; nothing where nothing is installed."""
    with _lock:
        for name, value in _before.items():
            setattr(config, name, value)
        _before.clear()

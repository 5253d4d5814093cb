"""One hash of all that decides a plan apart from the graph itself: the `uuid` of memsched's passes and choices.

Inductor puts it into the keys of its caches, so a change of memsched's sources, of an option, or of a version misses.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import time
from pathlib import Path

import torch

from memsched.inductor.options import BackendOptions

__all__ = ["plan_key"]

_SOLVERS = ("ortools", "pulp", "highspy", "numpy")


def plan_key(options: BackendOptions) -> str:
    """A hash of all that decides a plan apart from the graph itself."""
    # What an operator needs while it runs may grow with the threads (`workspaces.py`).
    parts = [_sources_hash(), repr(options), torch.__version__, f"{torch.get_num_threads()} threads"]
    return hashlib.sha256("\n".join(parts + _solver_versions()).encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _sources_hash() -> str:
    """Of the sources; where they cannot be read (replaced meanwhile, in an archive), what no other process has."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    try:
        for path in sorted(package.rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    except OSError:
        return f"unknown sources, process {os.getpid()} at {time.time_ns()}"
    return digest.hexdigest()


def _solver_versions() -> list[str]:
    versions = []
    for name in _SOLVERS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} is missing")
    return versions

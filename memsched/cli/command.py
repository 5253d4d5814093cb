"""What a subcommand is, and the exit codes that all of them share.

A module of this package holds one family of commands and names them in its `COMMANDS`; `memsched.cli` lists the
modules.  To add a command, add a module and its line there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "EXIT_BAD_INPUT",
    "EXIT_CLAIMED",
    "EXIT_DONE",
    "EXIT_INTERRUPTED",
    "EXIT_NOT_VERIFIED",
    "EXIT_ROSE",
    "Command",
]

EXIT_DONE, EXIT_ROSE, EXIT_BAD_INPUT, EXIT_NOT_VERIFIED, EXIT_CLAIMED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Done; a gate failed (a peak rose, a budget is not met); bad input, one line on stderr that names the file and the
field; not verified; valid, but its bound is only claimed; interrupted."""


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: `declare` adds its arguments to a parser, `run` does it and returns the exit code."""

    name: str
    summary: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]

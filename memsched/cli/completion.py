"""`memsched --completion bash`: what a shell needs to complete commands and options, by shtab.

Where it goes:

    eval "$(memsched --completion bash)"                        in ~/.bashrc
    memsched --completion zsh > ~/.zfunc/_memsched              for zsh, with that folder in fpath
"""

from __future__ import annotations

import argparse
from typing import Any

from memsched.cli.command import EXIT_BAD_INPUT, EXIT_DONE

__all__ = ["declare_completion"]

_SHELLS = ("bash", "zsh", "tcsh")


def declare_completion(parser: argparse.ArgumentParser) -> None:
    """Add the option to the parser of all commands."""
    words = f"print what completes commands and options in a shell: {', '.join(_SHELLS)}"
    parser.add_argument("--completion", action=_Print, choices=_SHELLS, metavar="SHELL", help=words)


class _Print(argparse.Action):
    """Print the script and exit."""

    def __call__(self, parser: argparse.ArgumentParser, _namespace: object, shell: Any, _option: Any = None) -> None:
        try:
            import shtab
        except ImportError:
            parser.exit(EXIT_BAD_INPUT, "memsched: --completion needs shtab: pip install 'memsched[completion]'\n")
        print(shtab.complete(parser, shell=shell))
        parser.exit(EXIT_DONE)

"""The command line: `memsched COMMAND`, also as `python -m memsched`.

    memsched solve GRAPH [--time-limit S] [--method M] [--json] [-o PLAN]    order a graph; print or write the plan
    memsched verify GRAPH PLAN                                               recompute the peak, check the certificate
    memsched show PLAN [--graph GRAPH] -o out.html|.pickle|.json|.csv        a page, a snapshot, a trace, a table
    memsched tree GRAPH [-o tree.svg] [--segments] [--json]                  the series-parallel decomposition
    memsched plan MODULE:FUNCTION --device cuda --device-memory 24GiB        will it fit?  see `memsched.planning`
    memsched explain | check MODULE:FUNCTION, memsched diff A B              see `memsched.questions`

Each family of commands is a module here (`memsched.cli.command`).  Nothing here imports torch when it is imported, and
`verify` needs no solver.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence

from memsched import __version__
from memsched.check.error import CheckError
from memsched.cli import fit, fusions, pareto, patches, plan, questions, show, solve, tree, verify
from memsched.cli.command import EXIT_BAD_INPUT, EXIT_DONE, EXIT_INTERRUPTED, EXIT_NOT_VERIFIED, EXIT_ROSE, Command
from memsched.cli.completion import declare_completion
from memsched.cli.text import one_line
from memsched.core.graph import GraphError
from memsched.core.sizes import InputError
from memsched.files.fields import FormatError
from memsched.search.solver import SolverError

__all__ = ["COMMANDS", "EXIT_BAD_INPUT", "EXIT_DONE", "EXIT_NOT_VERIFIED", "EXIT_ROSE", "Command", "main"]

_FAMILIES = (
    fit,
    fusions,
    pareto,
    patches,
    plan,
    questions,
    show,
    solve,
    tree,
    verify,
)

COMMANDS: tuple[Command, ...] = tuple(
    sorted((command for family in _FAMILIES for command in family.COMMANDS), key=lambda command: command.name)
)
"""Every subcommand, in the order of the help text."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.  Bad input is one line on stderr, never a traceback."""
    arguments = _parser().parse_args(argv)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit)  # so that half-written files are removed
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may not fit the terminal's encoding
    try:
        exit_code: int = arguments.run(arguments)
        sys.stdout.flush()
    except (FormatError, GraphError, SolverError, CheckError, InputError) as error:
        print(f"memsched: {one_line(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("memsched: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except MemoryError:
        print("memsched: out of memory", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # the reader of our output has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        print(f"memsched: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return exit_code


def _exit(_signal: int, _frame: object) -> None:
    sys.exit(143)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="memsched", description="Order a compiled graph for least peak memory.")
    parser.add_argument("--version", action="version", version=f"memsched {__version__}")
    declare_completion(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = commands.add_parser(command.name, help=command.summary, description=command.summary)
        command.declare(subparser)
        subparser.set_defaults(run=command.run)
    return parser

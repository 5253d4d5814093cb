"""`memsched patches apply|revert|status`: the patches of `patches/` in the torch of this environment."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from memsched.cli.command import EXIT_DONE, Command
from memsched.patching.environment import apply, installed_environment, revert, series_for, status
from memsched.patching.series import FOLDER, parse_selection

__all__ = ["COMMANDS"]


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("apply", "revert", "status"))
    parser.add_argument(
        "--patches", type=int, nargs="+", metavar="N", help="apply only these of the series (all by default)"
    )
    parser.add_argument("--yes", action="store_true", help="really change the files; without it, apply only tries")
    parser.add_argument("--from", dest="folder", type=Path, default=FOLDER, metavar="FOLDER", help="folder of patches/")
    parser.add_argument("--json", action="store_true", help="print the answer as one JSON object")


def _patches(arguments: argparse.Namespace) -> int:
    actions = {"apply": _apply, "revert": _revert, "status": _status}
    answer, text = actions[arguments.action](arguments)
    print(json.dumps(answer) if arguments.json else text)
    return EXIT_DONE


def _apply(arguments: argparse.Namespace) -> tuple[dict[str, object], str]:
    environment = installed_environment()
    patches = parse_selection(series_for(environment.version, arguments.folder), arguments.patches)
    changes = apply(environment, patches, dry_run=not arguments.yes)
    answer: dict[str, object] = {
        "torch": environment.version,
        "site": str(environment.site),
        "applied": arguments.yes,
        "patches": [patch.number for patch in patches],
        "files": [asdict(change) for change in changes],
    }
    lines = [f"torch {environment.version} at {environment.site}"]
    lines += [f"  {patch.number}  {patch.subject}" for patch in patches]
    lines += [f"  {'patched' if arguments.yes else 'would patch'} {change.name}" for change in changes]
    lines.append(
        "Restart Python to use it; `memsched patches revert` takes it back."
        if arguments.yes
        else "Every patch fits; nothing was changed. Repeat with --yes to apply."
    )
    return answer, "\n".join(lines)


def _revert(arguments: argparse.Namespace) -> tuple[dict[str, object], str]:
    environment = installed_environment()
    names = revert(environment)
    answer: dict[str, object] = {"torch": environment.version, "site": str(environment.site), "restored": names}
    return answer, "\n".join(
        [f"torch {environment.version} at {environment.site}", *(f"  restored {n}" for n in names)]
    )


def _status(arguments: argparse.Namespace) -> tuple[dict[str, object], str]:
    environment = installed_environment()
    series = series_for(environment.version, arguments.folder)
    applied, files = status(environment, series)
    answer: dict[str, object] = {
        "torch": environment.version,
        "site": str(environment.site),
        "patches": [{"number": p.number, "subject": p.subject, "applied": p.number in applied} for p in series],
        "files": [asdict(file) for file in files],
    }
    lines = [f"torch {environment.version} at {environment.site}"]
    lines += [f"  {p.number}  {'applied' if p.number in applied else 'not applied':11}  {p.subject}" for p in series]
    lines += [f"  {file.state:8}  {file.name}" for file in files]
    return answer, "\n".join(lines)


COMMANDS = (
    Command("patches", "apply the patches of patches/ to the installed torch, or revert them", _declare, _patches),
)

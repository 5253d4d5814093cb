"""The benchmark's commands: `python -m bench COMMAND --help`."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "run": "measure models in every mode; rows in bench/results/",
    "report": "tables and figures of runs",
    "capture": "scheduler graphs of the models into bench/instances/",
    "orders": "how good the orders are on captured graphs",
    "smoke": "plan a few models and compare with the baselines, for CI",
    "demo": "eager, stock and memsched side by side on a few models",
    "readme": "put measured tables into the README",
}


def main() -> int:
    """Run the command of the command line; 2 when there is none of that name."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(__doc__ + "\n" + "\n".join(f"    {command:8} {what}" for command, what in COMMANDS.items()))
        return 0
    if name not in COMMANDS:
        print(f"bench: {name!r} is no command (there are {', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"bench.{name}").main(sys.argv[2:])
    return code


if __name__ == "__main__":
    sys.exit(main())

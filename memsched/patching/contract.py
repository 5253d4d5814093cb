"""The contract with PyTorch, held against every release: `make contract`, or python -m memsched.patching.contract.

    python -m memsched.patching.contract                  all supported releases, out of their wheels
    python -m memsched.patching.contract 2.15.0           one release
    python -m memsched.patching.contract --installed      the torch of this environment

Nothing is installed or imported: of a wheel of hundreds of megabytes the few files of the table are read.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from memsched.contract.check import faults_of
from memsched.contract.table import CONTRACT
from memsched.core.sizes import InputError
from memsched.patching.versions import VERSIONS, read_from_wheel

__all__ = ["installed_reader", "main"]


def installed_reader() -> Callable[[str], str | None]:
    """Reads the sources of the installed torch; raises InputError when there is none."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise InputError("no torch is installed here")
    return _reader(Path(found.origin).parents[1])


def _reader(folder: Path) -> Callable[[str], str | None]:
    def read(name: str) -> str | None:
        path = folder / name
        return path.read_text() if path.exists() else None

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """One line for each release or fault; 0 when all hold, 1 when one does not, 2 when a release cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m memsched.patching.contract", description=main.__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS, metavar="VERSION")
    parser.add_argument("--installed", action="store_true", help="check the torch of this environment instead")
    options = parser.parse_args(arguments)
    wanted = ["installed"] if options.installed else list(options.versions)
    broken = False
    try:
        for version in wanted:
            with tempfile.TemporaryDirectory(prefix="memsched-contract-") as temporary:
                if version == "installed":
                    read = installed_reader()
                else:
                    names = sorted({needs.path for needs in CONTRACT})
                    read_from_wheel(version, names, Path(temporary), missing_ok=True)
                    read = _reader(Path(temporary))
                faults = faults_of(CONTRACT, read)
            broken = broken or bool(faults)
            print(f"torch {version}: {len(CONTRACT)} names, {len(faults)} faults", *faults, sep="\n  ", flush=True)
    except InputError as error:
        print(f"memsched: {error}", file=sys.stderr)
        return 2
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

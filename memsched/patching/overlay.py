"""A patched torch for one process: copies of the files that the patches change are imported instead of the installed.

    site-packages/torch/_inductor/memory.py  ── copy, git apply ──>  FOLDER/torch/_inductor/memory.py
                                                                            ▲
    import torch._inductor.memory  ── finder in front of sys.meta_path ─────┘

The installed files are only read.  The finder must stand before torch is imported, so this runs in a process of its
own (`python -m memsched.patching.overlay --patches 1 2 -- script.py arguments`).
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import runpy
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from memsched.core.sizes import InputError
from memsched.patching.series import FOLDER, Patch, apply_to_copies, parse_selection, read_series, touched_files

__all__ = ["install", "patched_copies"]


class _PatchedFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that have a patched copy; knows nothing of any other."""

    def __init__(self, copies: Mapping[str, Path]) -> None:
        self.copies = copies

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        copy = self.copies.get(fullname)
        return importlib.util.spec_from_file_location(fullname, copy) if copy else None


def patched_copies(patches: Sequence[Patch], site: Path, folder: Path) -> dict[str, Path]:
    """Copy the files that the patches change from `site` (the folder that holds torch/) and patch the copies.

    Returns module names and the paths of their patched files.

    Raises:
        InputError: a file is missing, or a hunk does not fit.
    """
    for name in touched_files(patches):
        if not (site / name).is_file():
            raise InputError(f"{site / name}: not there, but {patches[0].path.parent.name} changes it")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(site / name, folder / name)
    apply_to_copies(patches, folder)
    return {name.removesuffix(".py").replace("/", "."): folder / name for name in touched_files(patches)}


def install(copies: Mapping[str, Path]) -> None:
    """From now on this process imports the patched copies.

    Raises:
        RuntimeError: one of the modules has been imported already.
    """
    imported = sorted(set(copies) & set(sys.modules))
    if imported:
        raise RuntimeError(f"{imported[0]} is imported already: an overlay comes first")
    sys.meta_path.insert(0, _PatchedFinder(copies))


def installed_site() -> Path:
    """The folder that holds the installed torch, found without importing it.

    Raises:
        InputError: torch is not installed.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise InputError("torch is not installed")
    return Path(spec.origin).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a script under an overlay; its `sys.argv` is what follows the script's name."""
    parser = argparse.ArgumentParser(prog="python -m memsched.patching.overlay", description=main.__doc__)
    parser.add_argument("--series", type=Path, default=FOLDER / "torch-2.13", help="folder of patches")
    parser.add_argument("--patches", type=int, nargs="*", help="numbers of the patches; all by default, none for stock")
    parser.add_argument("script", help="a Python file, or the name of a module after -m")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    patches = parse_selection(read_series(options.series), options.patches)
    with tempfile.TemporaryDirectory(prefix="memsched-overlay-") as folder:
        if patches:
            install(patched_copies(patches, installed_site(), Path(folder)))
        sys.argv = [options.script, *options.arguments]
        if options.script.endswith(".py"):
            runpy.run_path(options.script, run_name="__main__")
        else:
            runpy.run_module(options.script, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

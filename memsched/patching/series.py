"""The patch files: what each is called, which files of torch it changes, and applying them to a folder of copies.

    patches/torch-2.13/0001-....patch     Subject: [PATCH 1/4] [inductor] Do not fuse a reduction into ...
                                          diff --git a/torch/_inductor/scheduler.py b/torch/_inductor/scheduler.py
                                          diff --git a/test/inductor/test_waiting_fusion.py ...       not installed

Only files below `torch/` are applied: an installed torch has no tests of its own.  `git apply` does the work, in a
folder that is no repository, so that a hunk that does not fit is refused whole.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memsched.core.sizes import InputError

__all__ = ["FOLDER", "Patch", "apply_to_copies", "parse_selection", "read_series", "touched_files"]

FOLDER = Path(__file__).resolve().parents[2] / "patches"
"""Where the repository keeps the patches; a wheel of memsched does not carry them."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch file.

    number: its place in the series, from 1; subject: the first line of its message, without tags.
    files: of torch, relative to the folder that holds `torch/`; tests: files below `test/` that it adds.
    """

    number: int
    path: Path
    subject: str
    files: tuple[str, ...]
    tests: tuple[str, ...]


def read_series(folder: Path) -> tuple[Patch, ...]:
    """The patches of one version's folder, by number.

    Raises:
        InputError: there are none, or one is no format-patch file; names the file.
    """
    patches = tuple(_read(path) for path in sorted(folder.glob("*.patch")))
    if not patches:
        raise InputError(f"{folder}: no patches (they come with the repository, not with the installed package)")
    return patches


def parse_selection(series: Sequence[Patch], numbers: Iterable[int] | None) -> tuple[Patch, ...]:
    """The patches with these numbers, in the order of the series; all of them for None.

    Raises:
        InputError: a number that no patch has.
    """
    if numbers is None:
        return tuple(series)
    wanted = set(numbers)
    unknown = wanted - {patch.number for patch in series}
    if unknown:
        raise InputError(f"there is no patch {min(unknown)} (there are {', '.join(str(p.number) for p in series)})")
    return tuple(patch for patch in series if patch.number in wanted)


def touched_files(patches: Sequence[Patch]) -> tuple[str, ...]:
    """Every file of torch that one of the patches changes, each once."""
    return tuple(dict.fromkeys(name for patch in patches for name in patch.files))


def apply_to_copies(patches: Sequence[Patch], folder: Path) -> None:
    """Apply the patches, one after another, to the copies of torch's files below `folder`.

    Raises:
        InputError: a hunk does not fit; names the patch and the place.  The folder is then of no use.
    """
    for patch in patches:
        command = ["git", "apply", "-p1", "--include=torch/*", str(patch.path.resolve())]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise InputError("git is needed to apply patches, and is not installed") from None
        if done.returncode:
            raise InputError(f"{patch.path.name}: {done.stderr.strip().splitlines()[0]}")


def _read(path: Path) -> Patch:
    text = path.read_text()
    subject = re.search(r"^Subject: (.*(?:\n .*)*)", text, re.MULTILINE)
    number = re.match(r"(\d+)-", path.name)
    changed = re.findall(r"^diff --git a/(\S+) b/", text, re.MULTILINE)
    if subject is None or number is None or not changed:
        raise InputError(f"{path}: not a file of git format-patch")
    title = re.sub(r"\s+", " ", re.sub(r"^\[PATCH[^]]*\] ", "", subject[1]))
    return Patch(
        int(number[1]),
        path,
        title,
        tuple(name for name in changed if name.startswith("torch/")),
        tuple(name for name in changed if name.startswith("test/")),
    )

"""The installed torch: apply the patches to it, take them back, say what is applied.

    site-packages/torch/_inductor/memory.py       replaced in one step by its patched copy
    site-packages/memsched-patches/state.json     which patches, and the sha256 of every file before and after
    site-packages/memsched-patches/before/...     the files as they were

What is patched must be what was installed: the sha256 of every file is compared with the one that the installer
recorded (`RECORD` of the torch distribution), and torch must be of the version that the folder of patches names.
Everything is tried on copies first.  Originals and state are written before the first file is replaced, so an
interrupted `apply` can be reverted; `revert` restores a file only over what `apply` wrote.  Inductor's caches need no
care: their keys hold the sources of torch.

This module never runs on its own: only the command line calls it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memsched.core.sizes import InputError
from memsched.files.json_file import atomic_write
from memsched.patching.series import FOLDER, Patch, apply_to_copies, read_series, touched_files

__all__ = ["Change", "Environment", "FileStatus", "apply", "installed_environment", "revert", "series_for", "status"]

_STATE = "memsched-patches"


@dataclass(frozen=True, slots=True)
class Environment:
    """A torch: the folder that holds it, its version, and the sha256 that its installer recorded for each file."""

    site: Path
    version: str
    recorded: Mapping[str, str]

    @property
    def state_folder(self) -> Path:
        """Where originals and state are kept while patches are applied."""
        return self.site / _STATE


@dataclass(frozen=True, slots=True)
class Change:
    """A file that a set of patches changes, with its sha256 before and after."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class FileStatus:
    """A file of torch that the patches know: "pristine", "patched" or "changed" by somebody else."""

    name: str
    state: str


def installed_environment() -> Environment:
    """The torch of this interpreter.

    Raises:
        InputError: torch is not installed, or its installer left no record of hashes.
    """
    try:
        distribution = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        raise InputError("torch is not installed") from None
    recorded = {}
    for file in distribution.files or ():
        if file.hash is not None and file.hash.mode == "sha256":
            recorded[str(file)] = base64.urlsafe_b64decode(file.hash.value + "==").hex()
    if not recorded:
        raise InputError("torch's installer recorded no hashes: its files cannot be told from changed ones")
    return Environment(Path(str(distribution.locate_file("."))).resolve(), distribution.version, recorded)


def series_for(version: str, folder: Path = FOLDER) -> tuple[Patch, ...]:
    """The patches for a version of torch.

    Raises:
        InputError: there are none for it.
    """
    match = re.match(r"\d+\.\d+", version)
    own = folder / f"torch-{match[0] if match else version}"
    if not own.is_dir():
        known = ", ".join(sorted(path.name for path in folder.glob("torch-*"))) or "none"
        raise InputError(f"torch {version}: there are no patches tested on it (there are: {known})")
    return read_series(own)


def apply(environment: Environment, patches: Sequence[Patch], *, dry_run: bool) -> list[Change]:
    """Patch the files of an environment; with dry_run everything is tried on copies and nothing is written.

    Raises:
        InputError: patches are applied already, a file is not the one that was installed, or a hunk does not fit.
    """
    if environment.state_folder.exists():
        raise InputError(f"{environment.state_folder}: patches are applied already; revert them first")
    names = touched_files(patches)
    before = {name: _pristine(environment, name) for name in names}
    with tempfile.TemporaryDirectory(prefix="memsched-patches-") as temporary:
        copies = Path(temporary)
        for name in names:
            (copies / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(environment.site / name, copies / name)
        apply_to_copies(patches, copies)
        for name in names:
            compile((copies / name).read_text(), name, "exec")
        changes = [Change(name, before[name], _sha256(copies / name)) for name in names]
        if not dry_run:
            _replace_all(environment, patches, changes, copies)
    return changes


def revert(environment: Environment) -> list[str]:
    """Put the files back as they were; returns their names.

    Raises:
        InputError: nothing is applied, or a file was changed since by somebody else; nothing is restored then.
    """
    changes = _read_state(environment)
    if changes is None:
        raise InputError(f"torch {environment.version} at {environment.site}: no patches are applied")
    originals = environment.state_folder / "before"
    for change in changes:
        if _sha256(environment.site / change.name) not in (change.before, change.after):
            raise InputError(f"{environment.site / change.name}: changed since the patches were applied; left alone")
        if _sha256(originals / change.name) != change.before:
            raise InputError(f"{originals / change.name}: not the original; left alone")
    for change in changes:
        _replace(environment.site / change.name, originals / change.name)
    shutil.rmtree(environment.state_folder)
    return [change.name for change in changes]


def status(environment: Environment, patches: Sequence[Patch]) -> tuple[list[int], list[FileStatus]]:
    """The numbers of the applied patches, and the state of every file that the series touches.

    Raises:
        InputError: the state file cannot be read.
    """
    changes = {change.name: change for change in _read_state(environment) or ()}
    files = []
    for name in dict.fromkeys((*touched_files(patches), *changes)):
        path = environment.site / name
        found = _sha256(path) if path.is_file() else ""
        if name in changes and found == changes[name].after:
            state = "patched"
        else:
            state = "pristine" if found == environment.recorded.get(name) else "changed"
        files.append(FileStatus(name, state))
    return (_state(environment)["patches"] if changes else []), files


def _pristine(environment: Environment, name: str) -> str:
    path = environment.site / name
    if name not in environment.recorded or not path.is_file():
        raise InputError(f"{path}: not a file of torch {environment.version}")
    found = _sha256(path)
    if found != environment.recorded[name]:
        raise InputError(f"{path}: not the file that was installed (somebody has changed it)")
    return found


def _replace_all(environment: Environment, patches: Sequence[Patch], changes: Sequence[Change], copies: Path) -> None:
    originals = environment.state_folder / "before"
    state = {
        "torch": environment.version,
        "patches": [patch.number for patch in patches],
        "files": [{"name": c.name, "before": c.before, "after": c.after} for c in changes],
    }
    try:
        for change in changes:
            (originals / change.name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(environment.site / change.name, originals / change.name)
        atomic_write(str(environment.state_folder / "state.json"), json.dumps(state, indent=1).encode())
        for change in changes:
            _replace(environment.site / change.name, copies / change.name)
    except BaseException:
        for change in changes:
            if (originals / change.name).is_file():
                with contextlib.suppress(OSError):
                    _replace(environment.site / change.name, originals / change.name)
        shutil.rmtree(environment.state_folder, ignore_errors=True)
        raise


def _replace(path: Path, source: Path) -> None:
    """Put the content of `source` at `path` in one step, with the permissions that `path` has."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(descriptor)
    try:
        shutil.copyfile(source, temporary)
        shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _state(environment: Environment) -> dict[str, list[int]]:
    path = environment.state_folder / "state.json"
    try:
        state: dict[str, list[int]] = json.loads(path.read_text())
        return state
    except (OSError, ValueError):
        raise InputError(f"{path}: not a state that `patches apply` wrote; reinstall torch") from None


def _read_state(environment: Environment) -> list[Change] | None:
    if not environment.state_folder.exists():
        return None
    state = _state(environment)
    try:
        return [Change(**file) for file in state["files"]]  # type: ignore[arg-type]
    except (KeyError, TypeError):
        raise InputError(f"{environment.state_folder / 'state.json'}: files: not what `patches apply` wrote") from None


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None

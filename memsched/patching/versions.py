"""Do the patches apply to other versions of torch?  Only the few files that they touch are read, not the whole wheel.

    python -m memsched.patching.versions 2.15.0             check one version
    python -m memsched.patching.versions --write            check all of `VERSIONS`, write patches/versions.json

A wheel of torch is hundreds of megabytes, the files that the patches touch are less than one.  pip says where the
wheel is (`pip install --dry-run`, which by `fast-deps` reads a wheel's metadata and no more), and the files come out of
the zip by HTTP range requests.  `git apply --check` decides, patch by patch, each on top of those before it.  Applying
is not working: behaviour was tested on the versions that have a folder of their own in patches/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from memsched.core.sizes import InputError
from memsched.files.json_file import atomic_write
from memsched.patching.series import FOLDER, Patch, apply_to_copies, read_series, touched_files

__all__ = ["VERSIONS", "check_version", "main", "read_from_wheel", "versions_file"]

VERSIONS = ("2.11.0", "2.12.0", "2.13.0", "2.14.1", "2.15.0")
"""The last release of every minor version that memsched supports."""

versions_file = FOLDER / "versions.json"


def check_version(version: str, patches: Sequence[Patch]) -> dict[str, Any]:
    """Which patches apply to this version: {"version", "wheel", "patches": {number: True or the first misfit}}.

    Raises:
        InputError: there is no such version for this platform, or its files cannot be read.
    """
    found: dict[str, bool | str] = {}
    with tempfile.TemporaryDirectory(prefix="memsched-versions-") as temporary:
        copies = Path(temporary)
        wheel = read_from_wheel(version, touched_files(patches), copies)
        for patch in patches:
            try:
                apply_to_copies([patch], copies)
                found[str(patch.number)] = True
            except InputError as error:
                found[str(patch.number)] = str(error)
    return {"version": version, "wheel": wheel, "patches": found}


def read_from_wheel(version: str, names: Sequence[str], folder: Path, *, missing_ok: bool = False) -> str:
    """Read the files `names` of a release of torch into `folder`; the name of the wheel.

    Raises:
        InputError: there is no such version for this platform, or a file cannot be read, or, unless `missing_ok`, is
            not there.
    """
    url = _wheel_url(version)
    _read_files(url, names, folder, missing_ok)
    return url.rsplit("/", 1)[-1]


def fingerprint(patches: Sequence[Patch]) -> dict[str, str]:
    """The sha256 of every patch file by its name: what a result was obtained with."""
    return {patch.path.name: hashlib.sha256(patch.path.read_bytes()).hexdigest() for patch in patches}


def _wheel_url(version: str) -> str:
    """Where pip would get torch's wheel from; nothing is installed, so the user's constraints are set aside."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed"]
    command += ["--no-cache-dir", "--only-binary=:all:", "--use-feature=fast-deps", "--report=-", f"torch=={version}"]
    done = subprocess.run(
        command, env=os.environ | {"PIP_CONSTRAINT": os.devnull}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise InputError(f"torch {version}: pip finds no wheel: {(reasons or ['no reason given'])[-1]}")
    return str(json.loads(done.stdout)["install"][0]["download_info"]["url"])


def _read_files(url: str, names: Sequence[str], folder: Path, missing_ok: bool) -> None:
    if url.startswith("file:"):
        archive: zipfile.ZipFile = zipfile.ZipFile(url2pathname(urlsplit(url).path))
    else:
        try:
            from remotezip import RemoteZip
        except ImportError:
            raise InputError("remotezip is needed to read files out of a wheel: pip install 'memsched[dev]'") from None
        archive = RemoteZip(url)
    with archive:
        inside = set(archive.namelist())
        for name in names:
            if name not in inside and missing_ok:
                continue
            if name not in inside:
                raise InputError(f"{url.rsplit('/', 1)[-1]}: has no {name}")
            archive.extract(name, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """One line for each version and patch; 0 when all apply, 1 when one does not, 2 when a version cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m memsched.patching.versions", description=main.__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS, metavar="VERSION")
    parser.add_argument("--series", type=Path, default=FOLDER / "torch-2.13", help="folder of patches")
    parser.add_argument("--write", action="store_true", help="write the results to patches/versions.json")
    options = parser.parse_args(arguments)
    try:
        patches = read_series(options.series)
        results = []
        for version in options.versions:
            results.append(check_version(version, patches))
            for number, outcome in results[-1]["patches"].items():
                print(f"torch {version}  patch {number}  {'applies' if outcome is True else outcome}", flush=True)
    except InputError as error:
        print(f"memsched: {error}", file=sys.stderr)
        return 2
    if options.write:
        data = {"series": options.series.name, "files": fingerprint(patches), "versions": results}
        atomic_write(str(versions_file), (json.dumps(data, indent=1) + "\n").encode())
    return 0 if all(outcome is True for result in results for outcome in result["patches"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())

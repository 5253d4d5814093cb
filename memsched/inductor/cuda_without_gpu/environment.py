"""What planning for CUDA without a GPU needs on a machine, whether it is there, and how it gets there.

    torch      2.13, a CPU build          the only version whose private names were verified
    compiler   g++ or clang++, or $CXX    builds shim.cpp in two seconds, once for each torch
    triton     3.7.1, 200 MB              Inductor imports it to write kernels; none is compiled

Triton goes into a folder of memsched's own, not beside torch: with triton importable, torch believes in other places
that it can compile for GPUs.  Only the worker process, which ends after its plans, has that folder in its path.

    ~/.cache/memsched/                    $MEMSCHED_CACHE_DIR, or memsched/ in $XDG_CACHE_HOME
        triton-3.7.1-cp311/triton/...
        shim-<hash of source, torch, compiler>.so

Nothing here imports torch: the shim must be loaded before it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["TORCH", "TRITON", "CudaUnavailable", "build_shim", "cache_dir", "missing", "set_up", "triton_dir"]

TORCH = (2, 13)
"""The minor version of torch on which everything here was verified."""

TRITON = "3.7.1"
"""The triton that the CUDA builds of that torch require."""

_SHIM = Path(__file__).with_name("shim.cpp")


class CudaUnavailable(RuntimeError):
    """Planning for CUDA is not possible here; the message names what is missing, in one line."""


def cache_dir() -> Path:
    """Where the shim and triton are kept."""
    own = os.environ.get("MEMSCHED_CACHE_DIR")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memsched"


def triton_dir() -> Path:
    """The folder that holds triton, for this version of Python; it may not exist yet."""
    return cache_dir() / f"triton-{TRITON}-cp{sys.version_info.major}{sys.version_info.minor}"


def missing() -> str:
    """What is missing here, in one line that says what to do; "" when plans can be made."""
    reason = _unfit_torch()
    if not reason and _compiler() is None:
        reason = "no C++ compiler: install g++ or set CXX"
    if not reason and not (triton_dir() / "triton" / "__init__.py").exists():
        reason = f"triton {TRITON} is not set up: run `memsched plan --setup` (200 MB, once)"
    return reason


def set_up(progress: Callable[[str], None] = lambda _text: None) -> None:
    """Download triton and build the shim, as far as they are not there.

    Raises:
        CudaUnavailable: something that cannot be had from here.
    """
    reason = _unfit_torch()
    if reason:
        raise CudaUnavailable(reason)
    progress("building the shim")
    build_shim()
    target = triton_dir()
    if (target / "triton" / "__init__.py").exists():
        return
    progress(f"downloading triton {TRITON} (200 MB)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="triton-") as scratch:
        fetched = Path(scratch) / "packages"
        _pip_install(fetched)
        shutil.rmtree(target, ignore_errors=True)
        fetched.rename(target)


def _pip_install(target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    finished = subprocess.run(
        [*command, "--target", str(target), f"triton=={TRITON}"], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        lines = [line for line in finished.stderr.splitlines() if line.strip()]
        raise CudaUnavailable(f"triton {TRITON} cannot be installed: {lines[-1] if lines else 'pip failed'}")


def build_shim() -> Path:
    """The compiled shim, built now if no earlier process has.

    Raises:
        CudaUnavailable: torch is unfit, there is no compiler, or it fails.
    """
    reason = _unfit_torch()
    compiler = _compiler()
    if reason or compiler is None:
        raise CudaUnavailable(reason or missing())
    torch_dir = _torch_dir()
    key = [_SHIM.read_text(), (torch_dir / "version.py").read_text(), str(torch_dir), compiler]
    library = cache_dir() / f"shim-{hashlib.sha256(chr(0).join(key).encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="shim-") as scratch:
        built = Path(scratch) / library.name
        finished = subprocess.run(_compile(compiler, torch_dir, built), capture_output=True, text=True, check=False)
        if finished.returncode:
            lines = [line for line in finished.stderr.splitlines() if "error" in line] or ["no message"]
            raise CudaUnavailable(f"{compiler} cannot build the shim: {lines[0]}")
        built.rename(library)
    return library


def _compile(compiler: str, torch_dir: Path, library: Path) -> list[str]:
    include, lib = torch_dir / "include", torch_dir / "lib"
    return [
        compiler, "-std=c++20", "-O1", "-shared", "-fPIC", str(_SHIM), "-o", str(library),
        f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}",
        f"-L{lib}", f"-Wl,-rpath,{lib}", "-ltorch_cpu", "-lc10",
    ]  # fmt: skip


def _compiler() -> str | None:
    wanted = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [wanted] if wanted else ["g++", "clang++", "c++"])), None)


def _torch_dir() -> Path:
    """Where torch is installed; found without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise CudaUnavailable("torch is not installed")
    return Path(spec.origin).parent


def _unfit_torch() -> str:
    """Why this torch cannot be used, or ""."""
    try:
        text = (_torch_dir() / "version.py").read_text()
    except CudaUnavailable as error:
        return str(error)
    version = re.search(r"^__version__ = '([^']*)'", text, re.MULTILINE)
    if version is None or not version[1].startswith(f"{TORCH[0]}.{TORCH[1]}."):
        found = version[1] if version else "of unknown version"
        return f"torch {found}: planning for CUDA without a GPU was verified on {TORCH[0]}.{TORCH[1]} only"
    if not re.search(r"^cuda: [^=]*= None", text, re.MULTILINE):
        return f"torch {version[1]} is a CUDA build: planning without a GPU needs the CPU build (+cpu)"
    return ""

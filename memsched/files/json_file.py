"""JSON files, gzip or not: read with one clear line for every fault, written whole or not at all.

Writing goes to a temporary file that is renamed, so that a reader never sees half a file.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import tempfile
import zlib

from memsched.files.fields import FormatError

__all__ = ["atomic_write", "read_json", "write_json"]

_MAX_FILE_BYTES = 1 << 30


def read_json(path: str | os.PathLike[str]) -> object:
    """The JSON in a file, gzip or not; raises FormatError."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else open(path, "rb") as stream:
            raw = stream.read(_MAX_FILE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FormatError(f"{path}: damaged gzip file ({error})") from None
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise FormatError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise FormatError(f"{path}: not JSON ({reason.splitlines()[0]})") from None


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number")


def write_json(path: str | os.PathLike[str], data: object) -> None:
    """Write `data` as JSON, gzip when the name ends in .gz, whole or not at all."""
    text = json.dumps(data, separators=(",", ":")).encode()
    # mtime=0: the same content gives the same bytes on every run
    atomic_write(path, gzip.compress(text, mtime=0) if str(path).endswith(".gz") else text + b"\n")


def atomic_write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to a temporary file beside `path` and rename it: a reader sees the old file or the new one."""
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

"""JSON files, gzip or not: read with one clear line for every fault, written whole or not at all.

Writing goes to a temporary file that is renamed, so that a reader never sees half a file.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import stat
import tempfile
import zlib

from memsched.files.fields import FormatError

__all__ = ["atomic_write", "read_json", "write_json"]

_MAX_FILE_BYTES = 1 << 30
_GZIP_MAGIC = b"\x1f\x8b"


def read_json(path: str | os.PathLike[str]) -> object:
    """The JSON in a file, gzip or not; raises FormatError."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
        if raw[:2] == _GZIP_MAGIC:
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
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
    """Write `content` to a temporary file beside `path` and rename it: a reader sees the old file or the new one.

    A link is followed to the file that it names; what is there and no regular file (a device, a pipe) is written to.  A
    new file has the mode that the umask leaves, an old one keeps its own.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, "wb") as device:
            device.write(content)
        return
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=f".{os.path.basename(target)}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, _mode_of(target))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _mode_of(target: str) -> int:
    if os.path.exists(target):
        return stat.S_IMODE(os.stat(target).st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask

"""The process that plans for CUDA: `python -m memsched.inductor.cuda_without_gpu.worker`, started by `client.py`.

The shim is loaded, then torch is imported; then requests are served until standard input ends:

    in    (target, arguments, keyword arguments)                pickled, one after the other
    out   ("progress", text)* then ("result", value) or ("error", kind, message, traceback)

`target` is a dotted name, "package.module:function"; the function runs in this process, and what it returns must be
picklable.  Whatever the function or PyTorch prints goes to standard error.  `report_progress` sends a line of text.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any

from memsched.inductor.cuda_without_gpu.environment import CudaUnavailable, build_shim, missing, triton_dir

__all__ = ["report_progress", "show_device"]

_replies: IO[bytes] | None = None
_shim: ctypes.CDLL | None = None


def report_progress(text: str) -> None:
    """Tell the process that waits for this one what is being done."""
    _send(("progress", text))


def show_device(show: int) -> int:
    """Show the CUDA device that does not exist, or hide it; returns what it was (`memsched_show_device` of the shim).

    Raises:
        CudaUnavailable: this process is not a worker.
    """
    if _shim is None:
        raise CudaUnavailable("the shim is not loaded: plans for CUDA are made in a worker process")
    return int(_shim.memsched_show_device(show))


def _main() -> None:
    global _replies
    _replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _load()
    except Exception as error:
        _send(_failure(error))
        return
    _send(("result", "ready"))
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        _send(_serve(*request))


def _load() -> None:
    """Load the shim, then torch, then see that torch has taken it."""
    global _shim
    reason = missing()
    if reason:
        raise CudaUnavailable(reason)
    if "torch" in sys.modules:
        raise CudaUnavailable("torch was imported before the shim")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    _shim = ctypes.CDLL(str(build_shim()))
    sys.path.append(str(triton_dir()))
    import torch

    if not _shim.memsched_install():
        raise CudaUnavailable("this torch has a CUDA device guard of its own: it is no CPU build")
    from memsched.inductor.cuda_without_gpu.pretend import check_names

    check_names()
    torch.set_num_threads(1)
    _collect_rarely()


def _collect_rarely() -> None:
    """Do not look for cycles among what torch brought, and seldom among the many live nodes of a plan.

    An eighth of the CPU time of a plan, for less than a hundredth of its memory.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _serve(target: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
    try:
        return ("result", _function(target)(*arguments, **keywords))
    except BaseException as error:
        return _failure(error)


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _failure(error: BaseException) -> tuple[str, str, str, str]:
    return ("error", type(error).__name__, str(error), traceback.format_exc())


def _send(reply: tuple[Any, ...]) -> None:
    assert _replies is not None, "this process is not a worker"
    try:
        message = pickle.dumps(reply)
    except Exception as error:
        message = pickle.dumps(_failure(error))
    _replies.write(message)
    _replies.flush()


if __name__ == "__main__":
    # Run the module that others import, not a second copy of it named __main__.
    from memsched.inductor.cuda_without_gpu import worker

    worker._main()
    sys.stderr.flush()
    os._exit(0)  # the device threads of autograd's engine abort in a normal exit

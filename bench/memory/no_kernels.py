"""C++ kernels that do nothing: generated wrappers allocate and free their real bytes, and nothing is compiled.

A model that would take a minute to compile is measured in seconds; the values that it computes mean nothing.
No cache is read or written meanwhile: what was compiled here would compute nothing there, and what was compiled
elsewhere would not be planned here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._inductor.async_compile import AsyncCompile

__all__ = ["kernels_that_do_nothing"]

_MAKERS = ("cpp_pybinding", "cpp")
"""What makes a kernel out of C++; the second is not in every release."""


@contextmanager
def kernels_that_do_nothing() -> Iterator[None]:
    """Within the context no kernel is compiled, and every graph is compiled anew; what was compiled is forgotten."""
    torch._dynamo.reset()
    real = {name: vars(AsyncCompile)[name] for name in _MAKERS if name in vars(AsyncCompile)}
    for name in _MAKERS:
        setattr(AsyncCompile, name, _nothing)
    try:
        with torch._inductor.config.patch(force_disable_caches=True):
            yield
    finally:
        torch._dynamo.reset()
        for name in _MAKERS:
            if name in real:
                setattr(AsyncCompile, name, real[name])
            else:
                delattr(AsyncCompile, name)


def _nothing(*_: Any, **__: Any) -> Callable[..., None]:
    return lambda *_arguments: None

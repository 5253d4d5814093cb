"""What holds for every test."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """PyTorch's structured trace is thousands of empty lines: a failure shall end with what failed."""
    del config
    logging.getLogger("torch.__trace").propagate = False


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """C++ kernels are no-ops: generated wrappers allocate and free their real bytes, and nothing is compiled."""
    from torch._inductor import async_compile

    def nothing(*_: Any, **__: Any) -> Callable[..., None]:
        return lambda *_arguments: None

    monkeypatch.setattr(async_compile.AsyncCompile, "cpp_pybinding", nothing)
    monkeypatch.setattr(async_compile.AsyncCompile, "cpp", nothing, raising=False)

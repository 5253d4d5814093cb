"""What holds for every test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """PyTorch's structured trace is thousands of empty lines: a failure shall end with what failed."""
    del config
    logging.getLogger("torch.__trace").propagate = False


@pytest.fixture
def no_kernels() -> Iterator[None]:
    """C++ kernels are no-ops: generated wrappers allocate and free their real bytes, and nothing is compiled."""
    from bench.memory.no_kernels import kernels_that_do_nothing

    with kernels_that_do_nothing():
        yield

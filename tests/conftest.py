"""What holds for every test."""

from __future__ import annotations

import logging

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """PyTorch's structured trace is thousands of empty lines: a failure shall end with what failed."""
    del config
    logging.getLogger("torch.__trace").propagate = False

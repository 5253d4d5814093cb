"""What every test of levers begins with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import memsched


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    memsched.reset()
    torch.manual_seed(0)
    with torch._functorch.config.patch(enable_autograd_cache=False):
        yield
    torch._dynamo.reset()

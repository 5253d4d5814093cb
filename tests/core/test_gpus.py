"""GPUs by the names that people use."""

from __future__ import annotations

import pytest

from memsched.core.gpus import GPUS, memory_of
from memsched.core.sizes import InputError


@pytest.mark.parametrize(
    ("name", "same"), [("A100-80GB", "a100-80"), ("4090", "rtx4090"), ("RTX 4090", "rtx4090"), ("H100", "h100")]
)
def test_names_as_people_write_them(name: str, same: str) -> None:
    assert memory_of(name) == GPUS[same]


def test_no_gpu_has_more_than_its_name_says() -> None:
    """The number behind the dash is the product's round number of GiB."""
    for name, size in GPUS.items():
        if "-" in name:
            assert size <= int(name.split("-")[1]) * 2**30


def test_an_unknown_name_lists_those_that_are_known() -> None:
    with pytest.raises(InputError, match=r"'h1000' is not known \(there are t4, .* takes any size"):
        memory_of("h1000")

"""What GPUs have: bytes of memory by the names that people use.

memory_of("h100") == 81_559 * 2**20        memory_of("A100-80GB") == memory_of("a100-80")

The figures are what `nvidia-smi` reports as total memory, which is below the round number of the product name.
"""

from __future__ import annotations

from memsched.core.sizes import InputError

__all__ = ["GPUS", "memory_of"]

_MIB = 2**20

GPUS: dict[str, int] = {
    name: mib * _MIB
    for name, mib in {
        "t4": 15_360,
        "v100-16": 16_384,
        "v100-32": 32_768,
        "rtx3090": 24_576,
        "rtx4090": 24_564,
        "rtx5090": 32_607,
        "l4": 23_034,
        "a10": 23_028,
        "a40": 46_068,
        "l40s": 46_068,
        "a100-40": 40_960,
        "a100-80": 81_920,
        "h100": 81_559,
        "h200": 143_771,
        "b200": 183_359,
    }.items()
}
"""Bytes by name."""


def memory_of(gpu: str) -> int:
    """Bytes of the GPU of that name; "gb" at the end, "rtx" before, capitals and spaces do not matter.

    Raises:
        InputError: a name that is not there; it lists those that are.
    """
    name = gpu.lower().replace(" ", "").removesuffix("gb")
    for candidate in (name, f"rtx{name}"):
        if candidate in GPUS:
            return GPUS[candidate]
    raise InputError(f"--gpu: {gpu!r} is not known (there are {', '.join(GPUS)}); --device-memory takes any size")

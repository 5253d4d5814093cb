"""The names of a graph's buffers and what they stand for, as plain data: filled in from Inductor, read without torch.

Piece    one name: bytes, producer, readers
Reuse    an output that is written over an input, once the other readers of the input have run
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CUDA_ALIGNMENT", "Piece", "Reuse"]


@dataclass(frozen=True, slots=True)
class Reuse:
    """An output that is written over an input, if the ops in `waits_for` have run.

    op: the fused node that writes it, as an index of the given nodes.
    beside: other readers of the input that may be fused with `op` without preventing it: they run before it anyway and
        read the same elements.
    """

    op: int
    output: str
    input: str
    waits_for: frozenset[int]
    beside: frozenset[int] = frozenset()


CUDA_ALIGNMENT = 512
"""`kMinBlockSize` of c10/cuda/CUDACachingAllocator.cpp: live bytes are counted in blocks of this many bytes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one name stands for.

    size: of the storage that it would have to itself, as the allocator counts; bytes.
    producer: the op that writes it; None for an input.
    local: whether code generation keeps it in registers, as long as nothing else shares its storage.
    """

    size: int
    producer: int | None
    readers: frozenset[int]
    kept: bool = False
    local: bool = False

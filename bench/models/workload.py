"""What a benchmark model is: a configuration that can be built, and what building it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from bench.models.policies import Policy

__all__ = ["SIZES", "Batch", "Configuration", "Entry", "Workload"]

Batch = tuple[Tensor, ...]

SIZES = ("small", "cpu", "cuda")
"""small: lowers in seconds, for tests and CI; cpu: measured here, peaks of tens of MiB; cuda: as people train them."""


class Configuration(Protocol):
    """The sizes of a model: a small frozen dataclass that builds it.  `batch` is what a sweep over batch sizes sets."""

    @property
    def batch(self) -> int: ...

    def build(self, policy: Policy) -> tuple[nn.Module, Batch]:
        """The model, whose forward returns a scalar loss, and one batch of inputs; on the CPU, of random numbers."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the registry.

    small, cpu, cuda: the configuration at each of `SIZES`.
    suites: the suites of the benchmark that it belongs to.
    policy: how it is checkpointed unless a sweep says otherwise.
    has_blocks: whether a policy that marks blocks finds any.
    """

    name: str
    suites: tuple[str, ...]
    small: Configuration
    cpu: Configuration
    cuda: Configuration
    policy: str = "none"
    has_blocks: bool = True

    @property
    def sizes(self) -> Mapping[str, Configuration]:
        """The configurations by name."""
        return {size: getattr(self, size) for size in SIZES}


@dataclass(frozen=True, slots=True)
class Workload:
    """A model whose forward returns a scalar loss, with one batch.  Compile it inside `policy.settings()`."""

    name: str
    model: nn.Module
    batch: Batch
    policy: Policy = field(default_factory=Policy)

"""The registry: every model by its name, its suites, and its three sizes; `build` makes one.

smoke        a few of every kind, for CI
ac           trained with activation checkpointing (`checkpointed.py`)
moe          mixtures of experts
irregular    wiring that is no chain
hf           Hugging Face transformers
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch

from bench.models.catalogue import OTHERS
from bench.models.checkpointed import CHECKPOINTED
from bench.models.policies import parse_policy
from bench.models.workload import SIZES, Entry, Workload

__all__ = ["DEMO", "DEMO_MODELS", "MODELS", "build", "fault_of_names"]

DEMO_MODELS = ("moe", "contrastive", "traversal", "gpt")
"""What `python -m bench demo --models all` runs."""

DEMO = DEMO_MODELS[:2]
"""What it runs by default."""

MODELS: dict[str, Entry] = {entry.name: entry for entry in (*CHECKPOINTED, *OTHERS)}
"""Every model by name."""


def build(
    name: str,
    size: str = "cpu",
    device: str = "cpu",
    seed: int = 0,
    *,
    policy: str | None = None,
    batch: int | None = None,
) -> Workload:
    """The workload `name` at one of its sizes, the same weights and batch for the same seed.

    policy: a checkpoint policy instead of the model's own; batch: a batch size instead of the configuration's.

    Raises:
        ValueError: an unknown name, size or policy, or a batch size below one; one line.
        ImportError: the model needs a package that is not installed.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is unknown (there are {', '.join(MODELS)})")
    entry = MODELS[name]
    if size not in SIZES:
        raise ValueError(f"model {name!r} has no size {size!r} (there are {', '.join(SIZES)})")
    configuration = entry.sizes[size]
    if batch is not None:
        if batch < 1:
            raise ValueError(f"batch size {batch} is not 1 or more")
        configuration = dataclasses.replace(configuration, batch=batch)
    chosen = parse_policy(policy or entry.policy)
    torch.manual_seed(seed)
    model, inputs = configuration.build(chosen)
    return Workload(name, model.to(device), tuple(tensor.to(device) for tensor in inputs), chosen)


def fault_of_names(names: Iterable[str]) -> str:
    """What is wrong with the names that follow `--models`, in one line; "" when all are known."""
    unknown = next((name for name in names if name not in MODELS), None)
    return "" if unknown is None else f"--models: {unknown!r} is unknown ({', '.join(MODELS)})"

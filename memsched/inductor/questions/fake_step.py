"""A step on fake tensors of a device: built by the user's function, moved to "cuda", costing no memory at any size.

The function runs under fake tensors, so a model of 100 GiB is built in the time of its Python code.  A function that
needs values while it builds (it reads a file into a tensor, looks at an element) runs once more with real tensors on
the CPU.  Either way every parameter, buffer and tensor of the batch that is on the CPU is then replaced by a fake twin
on the device (`capture.fakes`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from memsched.core.sizes import InputError
from memsched.inductor.calls import Batch
from memsched.inductor.capture.fakes import FakeTwins, fake_mode, modules_converted
from memsched.inductor.held import held_bytes
from memsched.inductor.optimizer_step import without_state
from memsched.inductor.questions.target import Target, build_target, find_function
from memsched.records.step import HeldBytes

__all__ = ["FakeStep", "build_step"]


@dataclass(frozen=True, slots=True)
class FakeStep:
    """One step on fake tensors: `model` with `batch` under `mode`; `held` is what the caller holds meanwhile.

    optimizers: of the parameters of `model`, without state.
    """

    mode: FakeTensorMode
    model: Callable[..., Any]
    batch: Batch
    held: HeldBytes
    optimizers: tuple[Optimizer, ...] = ()


def build_step(
    target: str, arguments: Mapping[str, Any], device: str, progress: Callable[[str], None] = lambda _text: None
) -> FakeStep:
    """Call the function `module:function` with `arguments`, and put what it returns on `device`.

    progress: told where the function has to run with real tensors, which may take all of the memory.

    Raises:
        InputError: there is no such function, it fails, takes no such argument, or returns something else.
    """
    function = find_function(target)
    _check_arguments(function, target, arguments)
    mode = fake_mode()
    step = _build(function, target, arguments, mode, progress)
    twins = FakeTwins(mode, device)
    if isinstance(step.model, nn.Module):
        twins.put_into(step.model)
    batch = twins.of_batch(step.batch)
    optimizers = tuple(_of_twins(optimizer, twins) for optimizer in step.optimizers)
    held = held_bytes(step.model, batch, optimizers)
    return FakeStep(mode, step.model, batch, held, optimizers)


def _of_twins(optimizer: Optimizer, twins: FakeTwins) -> Optimizer:
    """The optimizer of the twins of its parameters."""
    return without_state(optimizer, lambda group: {**group, "params": [twins.of(one) for one in group["params"]]})


def _check_arguments(function: Callable[..., Any], target: str, arguments: Mapping[str, Any]) -> None:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise InputError(f"{target}: {error}") from None
    except ValueError:
        return  # a function without a signature: the call will tell


def _build(
    function: Callable[..., Any],
    target: str,
    arguments: Mapping[str, Any],
    mode: FakeTensorMode,
    progress: Callable[[str], None],
) -> Target:
    def call() -> Any:
        return function(**arguments)

    try:
        with mode, modules_converted():
            return build_target(call, target)
    except InputError as error:  # needs values, or fails for a reason that it can tell
        progress(f"building the model once more, with real tensors ({error})")
        return build_target(call, target)

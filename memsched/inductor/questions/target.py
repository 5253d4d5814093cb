"""What `module:function` names on the command line: a function that builds the model and the batch of one step.

    # train.py                                    memsched explain train:step
    def step(batch_size=8):                                   # the argument is for `memsched plan --batch-size`
        model = Net()
        return model, (torch.randn(batch_size, 3, 32, 32),)   # or model, batch, optimizer
                                                              # or a list of optimizers
                                                              # or an object with `model` and `batch`
The batch is what the model takes (`calls.Batch`): a tuple of arguments, or a dictionary of keyword arguments.  The
model must return the loss, an object or dictionary with a `loss`, or anything with a tensor that requires a gradient.
The module may be given as a file, too: `memsched explain train.py:step`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from memsched.core.sizes import InputError
from memsched.inductor.calls import Batch, batch_of, optimizers_of
from memsched.inductor.failures import reason_of

__all__ = ["Target", "build_target", "find_function", "resolve_target"]


@dataclass(frozen=True, slots=True)
class Target:
    """One step: `model` called with `batch`, and the optimizers that follow it, if they are known."""

    model: Callable[..., Any]
    batch: Batch
    optimizers: tuple[torch.optim.Optimizer, ...] = ()


def resolve_target(text: str) -> Target:
    """Import the module, from the working directory first, call the function, and look at what it returns.

    Raises:
        InputError: no such module or function, it raises, or it does not return a model and a batch.
    """
    return build_target(find_function(text), text)


def find_function(text: str) -> Callable[..., Any]:
    """The function `module:function`; its module is imported, from the working directory first.

    Raises:
        InputError: no such module or function.
    """
    module_name, colon, function_name = text.partition(":")
    if not colon or not module_name or not function_name:
        raise InputError(f"{text!r} does not name a function: write it as module:function")
    folder, module_name = _folder_and_module(module_name)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(f"{module_name}: cannot be imported: {reason_of(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"{text}: the module has no function {function_name!r}")
    found: Callable[..., Any] = function
    return found


def build_target(function: Callable[[], Any], name: str = "the function") -> Target:
    """Call `function` and look at what it returns; raises InputError as `resolve_target` does."""
    try:
        made = function()
    except Exception as error:
        raise InputError(f"{name}: {reason_of(error)}") from error
    parts = (made.model, made.batch) if hasattr(made, "model") and hasattr(made, "batch") else made
    if isinstance(parts, torch.nn.Module):
        raise InputError(f"{name}: returned a model and no batch, not (model, batch) or (model, batch, optimizer)")
    if not isinstance(parts, tuple) or len(parts) not in (2, 3) or not callable(parts[0]):
        found = f"a {type(made).__name__}"
        raise InputError(f"{name}: returned {found}, not (model, batch) or (model, batch, optimizer)")
    batch, optimizers = parts[1], _optimizers(parts[2], name) if len(parts) == 3 else ()
    return Target(parts[0], batch_of(parts[0], batch if isinstance(batch, (tuple, list)) else (batch,)), optimizers)


def _optimizers(given: Any, name: str) -> tuple[torch.optim.Optimizer, ...]:
    """One, several, or None for none; raises InputError."""
    found = optimizers_of(given)
    for optimizer in found:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InputError(f"{name}: the optimizer is a {type(optimizer).__name__}")
    return found


def _folder_and_module(name: str) -> tuple[str, str]:
    """Where to import from, and what: a module of the working directory, or the module that is a file."""
    if not name.endswith(".py"):
        return os.getcwd(), name
    if not os.path.isfile(name):
        raise InputError(f"{name}: there is no such file")
    folder, file = os.path.split(os.path.abspath(name))
    return folder, file.removesuffix(".py")

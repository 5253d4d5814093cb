"""How a model is called with a batch, and which of its results is the loss: one meaning for every question and step.

A batch is what a data loader hands over:

    (x, y)                       model(x, y)
    {"input_ids": ..., ...}      model(input_ids=..., ...)     a dictionary whose keys the model's forward takes
    {"image": ..., ...}          model({"image": ..., ...})    a dictionary that it takes as one argument

What comes back is the loss itself, tensors that are all part of it, or an object or dictionary with a `loss` in it
(Hugging Face's `ModelOutput`): then nothing else gets a gradient.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from memsched.core.sizes import InputError

__all__ = [
    "Batch",
    "Model",
    "Optimizers",
    "WithLoss",
    "batch_of",
    "call_model",
    "keyword_names",
    "loss_or_all",
    "losses_of",
    "optimizers_of",
]

Model: TypeAlias = nn.Module | Callable[..., Any]
Batch: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""Positional arguments, or keyword arguments by name."""

Optimizers: TypeAlias = Optimizer | Sequence[Optimizer] | None
"""What updates the parameters of a step: one optimizer, several that share them, or nothing that is known."""


def optimizers_of(given: Optimizers) -> tuple[Optimizer, ...]:
    """All of them."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


def batch_of(model: Model, args: Sequence[Any], named: Mapping[str, Any] | None = None) -> Batch:
    """The batch that `model(*args, **named)` is given; a single dictionary is spread over keywords that `model` takes.

    Raises:
        InputError: positional and keyword arguments that do not fit the forward together, or a batch that with a
            `loss_fn` has no target behind what the model takes; in one line.
    """
    if not named:
        if len(args) == 1 and isinstance(args[0], Mapping) and _takes(model, args[0]):
            return dict(args[0])
        if isinstance(model, WithLoss):
            model.check(args)
        return tuple(args)
    if not args:
        return dict(named)
    signature = _signature(model)
    try:
        if signature is None:
            raise TypeError("its arguments are not known")
        bound = signature.bind(*args, **named)
    except TypeError as error:
        raise InputError(f"the model does not take this batch: {error}") from None
    rest = [one.name for one in signature.parameters.values() if one.kind is one.VAR_POSITIONAL]
    if rest and bound.arguments.get(rest[0]):
        raise InputError(f"the model takes *{rest[0]}: give it positional or keyword arguments, not both")
    return {**dict(zip(signature.parameters, args, strict=False)), **named}


def call_model(model: Callable[..., Any], batch: Batch) -> Any:
    """What `model` returns for `batch`."""
    return model(**batch) if isinstance(batch, Mapping) else model(*batch)


def keyword_names(model: Model) -> frozenset[str] | None:
    """The names of the arguments that the forward of `model` takes; None where it takes any."""
    signature = _signature(model)
    if signature is None or any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values()):
        return None
    return frozenset(signature.parameters)


def loss_or_all(results: Any) -> Any:
    """The `loss` of `results`, where they are an object or a dictionary that has one; else `results`."""
    if isinstance(results, Tensor):
        return results
    found = results.get("loss") if isinstance(results, dict) else getattr(results, "loss", None)
    return found if isinstance(found, Tensor) else results


class WithLoss(nn.Module):  # type: ignore[misc]
    """A model that returns its loss: `loss_fn(model(*batch[:-1]), batch[-1])`, the last of a batch being the target.

    Of a batch of keyword arguments the model gets those that its forward names, and `loss_fn(output, batch)` all.

    Raises:
        InputError: `loss_fn` does not take two arguments.
    """

    def __init__(self, model: Model, loss_fn: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        _check_takes_output_and_target(loss_fn)
        self._signature = _signature(model)
        self._users_model, self.loss_fn = model, loss_fn  # the name is known to `origins.py`, and left out of paths
        self._names = keyword_names(model)

    def check(self, batch: Sequence[Any]) -> None:
        """Raises InputError where the model does not take all but the last of a batch."""
        if misfit := _misfit(self._signature, *batch[:-1]):
            count = len(batch)
            raise InputError(
                f"with loss_fn a batch of {count} is what the model takes, {count - 1}, and a target: {misfit}"
            )

    def forward(self, *batch: Any, **named: Any) -> Any:
        """The loss."""
        if not named:
            return self.loss_fn(self._users_model(*batch[:-1]), batch[-1])
        taken = named if self._names is None else {name: named[name] for name in named if name in self._names}
        return self.loss_fn(self._users_model(**taken), named)


def losses_of(results: Any) -> list[Tensor]:
    """The tensors of `results` that a backward starts from."""
    leaves = tree_leaves(loss_or_all(results))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]


def _check_takes_output_and_target(loss_fn: Callable[..., Any]) -> None:
    if not callable(loss_fn):
        raise InputError(f"loss_fn: {loss_fn!r} cannot be called")
    if misfit := _misfit(_signature(loss_fn), None, None):
        raise InputError(f"loss_fn is called with the model's output and the target: {misfit}")


def _takes(model: Model, named: Mapping[Any, Any]) -> bool:
    """Whether every key is the name of an argument, and no argument is missing."""
    signature = _signature(model)
    if signature is None or not named or not all(isinstance(name, str) for name in named):
        return False
    return not _misfit(signature, **named)


def _misfit(signature: inspect.Signature | None, *args: Any, **named: Any) -> str:
    """Why a function of that signature cannot be called so; "" where it can, or nobody knows."""
    try:
        if signature is not None:
            signature.bind(*args, **named)
    except TypeError as error:
        return str(error)
    return ""


def _signature(model: Model) -> inspect.Signature | None:
    function = model.forward if isinstance(model, nn.Module) else model
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None

"""What a train step does not do, told in one line before anything is changed.

Each check looks at what the caller handed over (model, optimizer, batch) and names the first thing that does not fit,
with what to do about it.  Nothing here compiles or runs anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.utils._pytree import tree_flatten

from memsched.inductor.calls import Batch
from memsched.inductor.train_step.rules import RULES, rule_of

__all__ = ["Refusal", "Signature", "check_graph", "check_model", "check_optimizers", "check_signature", "signature_of"]

Signature = tuple[Any, ...]


class Refusal(ValueError):
    """A train step that cannot be made, in one line; nothing was changed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"memsched.train_step: {reason}")


def check_optimizers(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Raise a `Refusal` unless all updates are known and the optimizers have exactly the model's parameters."""
    for optimizer in optimizers:
        _check_optimizer(optimizer)
    _check_parameters(model, optimizers)


def _check_optimizer(optimizer: Optimizer) -> None:
    if not isinstance(optimizer, Optimizer):
        raise Refusal(f"optimizer is a {type(optimizer).__name__}, not a torch.optim.Optimizer")
    name = type(optimizer).__name__
    if isinstance(optimizer, LBFGS):
        raise Refusal("LBFGS calls a closure several times in a step; use an optimizer that steps on one gradient")
    if isinstance(optimizer, SparseAdam):
        raise Refusal("SparseAdam is for sparse gradients, which a compiled step does not have; use Adam")
    if rule_of(optimizer) is None:
        known = ", ".join(sorted(kind.__name__ for kind in RULES))
        raise Refusal(f"optimizer {name} has no compiled update (there are {known})")
    for at, group in enumerate(optimizer.param_groups):
        if group.get("differentiable"):
            raise Refusal(f"parameter group {at} is differentiable: updates inside the graph have no gradients")
    for attribute in ("grad_scale", "found_inf"):
        if getattr(optimizer, attribute, None) is not None:
            raise Refusal(f'{name}.{attribute} is set; give the scaler as options={{"grad_scaler": scaler}}')
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise Refusal(f"hooks registered on {name}.step would never run; call them around the train step")


def _check_parameters(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owned: dict[int, Optimizer] = {}
    for optimizer in optimizers:
        for at, group in enumerate(optimizer.param_groups):
            for number, parameter in enumerate(group["params"]):
                if id(parameter) not in names:
                    which = f"{number} of group {at} of the optimizer, of shape {tuple(parameter.shape)},"
                    raise Refusal(f"parameter {which} is not the model's")
                if parameter.is_complex():
                    raise Refusal(f"parameter {names[id(parameter)]} is complex")
                if owned.setdefault(id(parameter), optimizer) is not optimizer:
                    raise Refusal(f"parameter {names[id(parameter)]} is in two optimizers")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in owned:
            raise Refusal(f"parameter {name} requires a gradient but is not in the optimizer; freeze it or add it")


def check_model(model: nn.Module) -> None:
    """Raise a `Refusal` for what autograd's engine would have called, or for gradients that are not dense."""
    for name, module in model.named_modules():
        where = name or "the model"
        if module._backward_hooks or module._backward_pre_hooks:
            raise Refusal(f"{where} has a backward hook: the gradients of a compiled step are never seen by Python")
        if getattr(module, "sparse", False) is True:
            raise Refusal(f"{where} has sparse gradients (sparse=True); make it dense")
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise Refusal(f"parameter {name} has a gradient hook, which a compiled step would not call; remove it")


def check_graph(gm: fx.GraphModule) -> None:
    """Raise a `Refusal` unless the traced forward returns one scalar that has a gradient."""
    outputs: Sequence[Any] = gm.graph.output_node().args[0]  # type: ignore[assignment]
    values = [node.meta.get("example_value") if isinstance(node, fx.Node) else node for node in outputs]
    if not values:
        raise Refusal("the loss does not depend on any parameter that requires a gradient")
    if len(values) != 1:
        raise Refusal(
            f"the model returns or keeps {len(values)} tensors of its forward, not only a scalar loss: "
            "reduce them in loss_fn(output, target), and store none on the module"
        )
    (loss,) = values
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise Refusal(f"the model returns {what}, not a scalar loss; pass loss_fn")
    if not loss.requires_grad:
        raise Refusal("the loss does not depend on any parameter that requires a gradient")


def signature_of(batch: Batch) -> Signature:
    """What of a batch is compiled into a step: the shape, type and device of tensors, and all other values."""
    leaves, spec = tree_flatten(dict(batch) if isinstance(batch, Mapping) else tuple(batch))
    return (*(_leaf(leaf) for leaf in leaves), str(spec))


def _leaf(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.device
    return value


def check_signature(batch: Batch, known: Sequence[Signature], limit: int) -> None:
    """Raise a `Refusal` where `batch` would be one kind too many; names its first element that is not as before."""
    if len(known) < limit:
        return
    expected, found = known[0], signature_of(batch)
    kinds = f"and for {limit - 1} other kinds of batches" if limit > 1 else "and batch_shapes allows no other"
    names = list(batch) if isinstance(batch, Mapping) and len(batch) == len(found) - 1 else range(len(found) - 1)
    for at, (new, old) in zip(names, _differing(found, expected), strict=False):
        if new != old:
            raise Refusal(
                f"element {at} of the batch is {_words(new)}, the step was compiled for {_words(old)} {kinds}: "
                'pad to one of few shapes, drop the last batch, or raise options={"batch_shapes": ...}'
            )
    raise Refusal(f"the batch has {len(found) - 1} elements, the step was compiled for {len(expected) - 1} {kinds}")


def _differing(found: Signature, expected: Signature) -> Iterator[tuple[Any, Any]]:
    if len(found) == len(expected):
        yield from zip(found, expected, strict=True)


def _words(leaf: Any) -> str:
    if isinstance(leaf, tuple) and len(leaf) == 3 and isinstance(leaf[1], torch.dtype):
        shape, dtype, device = leaf
        return f"a {str(dtype).removeprefix('torch.')} tensor of shape {tuple(shape)} on {device}"
    return repr(leaf)

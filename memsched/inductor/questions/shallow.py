"""A step with fewer of the blocks that its model repeats: the same program, only shorter.

    model.layers    block 0 ... block 31    equal by types, sizes of tensors and settings      32 periods of 1 block
                    wide, wide, full, wide, wide, full, ...                                     a period of 3 blocks
    shallow at 4    block 0 ... block 3     what follows the blocks follows these

Blocks lie in a `ModuleList`, `Sequential` or `ModuleDict`; of nested ones only the outermost is looked at, so that the
experts of a layer stay.  Lists that repeat often must agree in how often (an encoder and its decoder): else there is no
depth that a shallow step could be measured by.  The layer's number is the one setting that equal blocks may differ in.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator
from dataclasses import replace

from torch import nn

from memsched.inductor.optimizer_step import without_state
from memsched.inductor.questions.fake_step import FakeStep

__all__ = ["depth_of", "shallow_step"]

_LEAST_DEPTH = 6
"""Fewer repetitions are no depth: a decoder's two upsampling blocks, four stages of a net for images."""

_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def depth_of(model: object) -> int:
    """How often the model repeats its blocks; 0 where it does not, or its lists do not agree."""
    depths = {depth for _, _, depth in _repeated(model)}
    return depths.pop() if len(depths) == 1 else 0


def shallow_step(step: FakeStep, depth: int) -> FakeStep:
    """`step`, whose model is changed to repeat its blocks only `depth` times; its optimizers update what is left.

    `held` stays that of the whole step.
    """
    for container, period, _ in _repeated(step.model):
        for key in list(container._modules)[depth * period :]:
            del container._modules[key]
    assert isinstance(step.model, nn.Module)
    left = set(step.model.parameters())
    optimizers = (
        without_state(one, lambda group: {**group, "params": [each for each in group["params"] if each in left]})
        for one in step.optimizers
    )
    kept = tuple(one for one in optimizers if any(group["params"] for group in one.param_groups))
    return replace(step, optimizers=kept)


def _repeated(model: object) -> list[tuple[nn.Module, int, int]]:
    """The outermost lists that repeat blocks often: the list, blocks in a period, periods."""
    lists = _lists_in(model) if isinstance(model, nn.Module) else ()
    return [(container, period, depth) for container, period, depth in lists if depth >= _LEAST_DEPTH]


def _lists_in(module: nn.Module) -> Iterator[tuple[nn.Module, int, int]]:
    """The outermost lists that repeat blocks at all; one of different stages is looked into."""
    children = list(module._modules.values())
    if isinstance(module, _LISTS) and children:
        blocks = [_signature(block) for block in children if block is not None]
        period = next(p for p in range(1, len(blocks) + 1) if len(blocks) % p == 0 and blocks[p:] == blocks[:-p])
        if period < len(blocks):
            yield module, period, len(blocks) // period
            return
    for child in children:
        yield from _lists_in(child) if child is not None else ()


def _signature(block: nn.Module) -> Hashable:
    """Types of its modules, sizes of its tensors, and settings of both; no numbers but whether they are zero."""
    tensors = (
        (name, tuple(one.shape), one.dtype, one.requires_grad)
        for name, one in itertools.chain(block.named_parameters(), block.named_buffers())
    )
    settings = (
        (name, type(one), tuple((key, _setting(value)) for key, value in vars(one).items() if key[0] != "_"))
        for name, one in block.named_modules()
    )
    return tuple(tensors), tuple(settings)


def _setting(value: object) -> Hashable:
    """What may tell two blocks apart: words and choices.  Layers are numbered, and drop more the deeper they are."""
    if isinstance(value, str | bool) or value is None:
        return value
    return type(value).__qualname__

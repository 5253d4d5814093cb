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
from collections.abc import Hashable, Iterator, Sequence
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
    children = [child for child in module._modules.values() if child is not None]
    if isinstance(module, _LISTS) and children:
        blocks = _signatures(children)
        period = next(p for p in range(1, len(blocks) + 1) if len(blocks) % p == 0 and blocks[p:] == blocks[:-p])
        if period < len(blocks):
            yield module, period, len(blocks) // period
            return
    for child in children:
        yield from _lists_in(child)


def _signatures(blocks: Sequence[nn.Module]) -> list[Hashable]:
    """For each block, types of its modules, sizes of its tensors, and settings of both, without the block's number."""
    settings = [dict(_settings_of(block)) for block in blocks]
    numbers = {name for name, first in settings[0].items() if _counts(first, [one.get(name) for one in settings])}
    return [
        (tuple(_tensors_of(block)), tuple((name, value) for name, value in of_block.items() if name not in numbers))
        for block, of_block in zip(blocks, settings, strict=True)
    ]


def _counts(first: Hashable, values: Sequence[Hashable]) -> bool:
    """Whether a setting numbers the blocks: one more in each."""
    return type(first) is int and len(values) > 1 and list(values) == list(range(first, first + len(values)))


def _tensors_of(block: nn.Module) -> Iterator[Hashable]:
    for name, tensor in itertools.chain(block.named_parameters(), block.named_buffers()):
        yield name, tuple(tensor.shape), tensor.dtype, tensor.requires_grad


def _settings_of(block: nn.Module) -> Iterator[tuple[str, Hashable]]:
    """Words, choices and sizes by name, the type of anything else: layers drop more the deeper they are."""
    for path, module in block.named_modules():
        yield path, type(module).__qualname__
        for name, value in vars(module).items():
            if not name.startswith("_"):
                is_plain = isinstance(value, str | int | None)
                yield f"{path}.{name}", value if is_plain else _sizes_or_type(value)


def _sizes_or_type(value: object) -> Hashable:
    if isinstance(value, tuple) and all(isinstance(one, int) for one in value):
        return value
    return type(value).__qualname__

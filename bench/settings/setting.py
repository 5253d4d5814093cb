"""What a set-up is: a step that is made once for each way to compile, run, measured, and compared.

    setting.make(compile) ──> Step ──> run() twice, then once under the profiler ──> peak
                                └────> values(): gradients or outputs, which both ways must agree on

`compile` is `torch.compile` with the way's backend; what the set-up adds (a mode, options, a wrapper) it adds itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import memsched

__all__ = [
    "Batch",
    "Compile",
    "Net",
    "Setting",
    "Step",
    "compile_with",
    "gradients_of",
    "inference",
    "tokens",
    "training",
]

Compile = Callable[..., Any]
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Step:
    """One step: run: what is measured; values: what it computed; before: what comes before each run, unmeasured.

    The profiler counts the frees of what was allocated before it began only sometimes, so `run` must free nothing else.
    """

    run: Callable[[], object]
    values: Callable[[], Sequence[Tensor]]
    before: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Setting:
    """A set-up by name.

    processes: how many it takes; alike: whether all of them compile the same.
    plain: the way is plain options, its backend stays Inductor.
    """

    name: str
    group: str
    make: Callable[[Compile], Step]
    processes: int = 1
    alike: bool = True
    plain: bool = False


def compile_with(way: str, plain: bool) -> Compile:
    """`torch.compile` of `way`: "stock" or "memsched"; plain: as options of Inductor."""
    if way == "stock":
        return torch.compile
    if plain:
        return functools.partial(torch.compile, options=memsched.options())
    return functools.partial(torch.compile, backend="memsched")


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = self.qkv(self.norm1(x)).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Net(nn.Module):
    """A small language model: tokens and targets to the loss; `around` is called in place of each block."""

    def __init__(self, dropout: float = 0.0, tied: bool = False, layers: int = 2) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(512, 64), nn.LayerNorm(64)
        self.blocks = nn.ModuleList(Block(64, dropout) for _ in range(layers))
        self.head = nn.Linear(64, 512, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.around: Callable[[nn.Module, Tensor], Tensor] = lambda block, x: block(x)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(inputs)
        for block in self.blocks:
            x = self.around(block, x)
        return functional.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def tokens(batch: int = 4, length: int = 64, seed: int = 0) -> Batch:
    """Inputs and targets."""
    inputs = torch.randint(512, (batch, length), generator=torch.Generator().manual_seed(seed))
    return inputs, inputs.roll(1, 1)


def training(model: nn.Module, compiled: Callable[..., Any], batch: Batch) -> Step:
    """Forward and backward; the values are the gradients."""

    def run() -> None:
        loss_of(compiled(*batch)).backward()  # type: ignore[no-untyped-call]

    return gradients_of(model, run)


def gradients_of(model: nn.Module, run: Callable[[], object]) -> Step:
    """A step whose values are the gradients of `model`, which begins without any."""
    gradients = functools.partial(_gradients, model)
    return Step(run, gradients, lambda: model.zero_grad(set_to_none=True))


def _gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def inference(compiled: Callable[..., Any], batch: Batch, mode: Callable[[], Any] = torch.no_grad) -> Step:
    """One call without gradients; the values are what it returns."""

    def call() -> list[Tensor]:
        with mode():
            found = compiled(*batch)
        return [leaf.clone() for leaf in torch.utils._pytree.tree_leaves(found) if isinstance(leaf, Tensor)]

    def run() -> None:
        with mode():
            compiled(*batch)

    return Step(run, call)


def loss_of(result: Any) -> Tensor:
    """The loss that a model returned, itself or in an object."""
    found: Tensor = result if isinstance(result, Tensor) else result.loss
    return found

"""Small models that nobody tuned for: one for each kind of graph that Inductor's scheduler can be given.

Each is built by a function without arguments that returns a callable and its batch; a training model returns one
tensor that requires a gradient.  `ZOO` lists them by name.  They are for tests: what counts is the feature that a
planner could get wrong (fallback kernels, several outputs, mutation, aliases, random numbers, control flow), not size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.policies import checkpointed, parse_policy
from bench.models.zoo_modules import (
    GPT,
    Branches,
    CapacityRouting,
    DenseCell,
    DroppedInPairs,
    ExpertChoice,
    Looped,
    MixedTypes,
    Nested,
    PreferencePairs,
    RandomWired,
    Recurrent,
    ResNet,
    Siamese,
    UNet,
)

__all__ = ["ZOO", "Example"]

Example = tuple[Callable[..., Any], tuple[Tensor, ...]]


def scanned(x: Tensor) -> Tensor:
    """`while_loop` over a counter and a tensor."""
    from torch._higher_order_ops import while_loop

    def going(step: Tensor, y: Tensor) -> Tensor:
        return step < 3

    def body(step: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return step + 1, (y @ y).tanh()

    return while_loop(going, body, (torch.zeros((), dtype=torch.int64), x))[1].sum(0)


def mutating(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """In-place operators on inputs and on views of them; outputs that alias an input and each other."""
    table[2:4].add_(x[:2])
    before = table.sum(0)
    table.mul_(2)
    x.relu_()
    y = torch.as_strided(table, (3, 4), (8, 1)) + before[:4]
    y[0].zero_()
    scratch = torch.empty_like(x).fill_(1)
    scratch.index_put_((torch.tensor([0, 2]),), x[:2], accumulate=True)
    return y.T, table.view(-1)[: scratch.shape[0]] + scratch.sum()


def several_outputs(x: Tensor) -> tuple[Tensor, ...]:
    """Fallback kernels with several outputs, some of them unused, and operators that Inductor does not lower."""
    values, order = x.sort(-1)
    top, at = x.topk(3, -1)
    running = x.cumsum(0) + values.gather(1, order)
    mean, inverse, _ = torch.linalg.svd(x @ x.T)[::-1]
    spectrum = torch.fft.rfft(running).abs()
    heap, _ = torch.kthvalue(x, 2, dim=-1)
    unique = torch.linalg.slogdet(x @ x.T + torch.eye(len(x)))
    return top.sum() + at.sum(), mean.sum() * inverse.sum(), spectrum, heap, unique.logabsdet, x.split(2, 0)[1]


def complex_numbers(x: Tensor) -> Tensor:
    """Rotary embedding by complex products: fallback kernels on complex buffers and views between the two."""
    turns = torch.polar(torch.ones(x.shape[1] // 2), torch.arange(x.shape[1] // 2) * 0.1)
    rotated = torch.view_as_complex(x.unflatten(1, (-1, 2))) * turns
    return torch.view_as_real(rotated * rotated.conj()).flatten(1).sum(0)


def unbacked(x: Tensor) -> Tensor:
    """A size that only the data knows."""
    chosen = x[x[:, 0] > 0]
    return (chosen.sin() * 2).sum(0) + chosen.shape[0]


def graph_break(x: Tensor) -> Tensor:
    """Two graphs."""
    y = (x @ x.T).sin()
    torch._dynamo.graph_break()
    return (y @ x).cos()


def no_kernels(x: Tensor) -> tuple[Tensor, Tensor]:
    """Views only: nothing to run."""
    return x.T, x.view(-1)


def weights(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape) for shape in shapes)


def tokens(count: int = 1) -> tuple[Tensor, ...]:
    return tuple(torch.randint(64, (2, 16)) for _ in range(count))


def optimizer_step(kind: Callable[..., torch.optim.Optimizer]) -> Example:
    """One compiled step of an optimizer over several parameters: foreach kernels, every buffer mutated."""
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16), nn.LayerNorm(16))
    optimizer = kind(model.parameters(), lr=1e-2)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()  # creates the state
    return lambda: optimizer.step(), ()


def branching(x: Tensor) -> Tensor:
    """Branches that share one input, no gradients: horizontal fusion would keep all of them alive."""
    outputs = [(x * 2 + 1).sin() * (at + x) for at in range(6)]
    return torch.stack([(o @ o.T).sum() for o in outputs])


ZOO: dict[str, Callable[[], Example]] = {
    "resnet": lambda: (ResNet(), weights((2, 3, 16, 16))),
    "unet": lambda: (UNet(), weights((2, 3, 16, 16))),
    "dense cell": lambda: (DenseCell(), weights((2, 4, 8, 8))),
    "random wired": lambda: (RandomWired(), weights((32, 16))),
    "lstm": lambda: (Recurrent(nn.LSTMCell), weights((4, 6, 8))),
    "gru": lambda: (Recurrent(nn.GRUCell), weights((4, 6, 8))),
    "gpt sdpa": lambda: (GPT(), tokens()),
    "gpt sdpa checkpointed": lambda: (GPT(checkpointed), tokens()),
    "selective checkpoint": lambda: (GPT(parse_policy("selective").function(0)), tokens()),
    "bfloat16": lambda: (GPT(checkpointed).bfloat16(), tokens()),
    "mixed types": lambda: (MixedTypes(), weights((8, 16))),
    "capacity routing": lambda: (CapacityRouting(), weights((24, 16))),
    "expert choice": lambda: (ExpertChoice(), weights((24, 16))),
    "nested checkpoint": lambda: (Nested(), weights((8, 16))),
    "siamese": lambda: (Siamese(), weights((2, 3, 16, 16), (2, 3, 16, 16))),
    "preference pairs": lambda: (PreferencePairs(), tokens(2)),
    "looped": lambda: (Looped(), weights((2, 16, 32))),
    "dropout in pairs": lambda: (DroppedInPairs(), weights((8, 16), (8, 16))),
    "branches": lambda: (Branches(), weights((4, 8))),
    "while loop": lambda: (scanned, weights((4, 4))),
    "mutating": lambda: (mutating, weights((4, 8), (6, 8))),
    "several outputs": lambda: (several_outputs, weights((4, 6))),
    "complex numbers": lambda: (complex_numbers, weights((4, 8))),
    "unbacked": lambda: (unbacked, weights((6, 4))),
    "graph break": lambda: (graph_break, weights((4, 6))),
    "no kernels": lambda: (no_kernels, weights((4, 6))),
    "one operator": lambda: (torch.sin, weights((4, 6))),
    "branching": lambda: (branching, weights((32, 32))),
    "adamw": lambda: optimizer_step(torch.optim.AdamW),
    "sgd": lambda: optimizer_step(functools.partial(torch.optim.SGD, momentum=0.9)),
}

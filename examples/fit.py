"""How far down a language model can go, and what each rung costs.   python examples/fit.py [--real]

Without an argument a tiny model is planned; with --real that of docs/fit.md is compiled, run and measured, too.
`memsched fit examples/fit.py:compiled` and `memsched fit examples/fit.py:step` print the ladders of that one.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

import memsched
from memsched.inductor.bytes.measure import measure_peak


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        query, key, value = self.qkv(self.norm1(x)).view(shape).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Language(nn.Module):
    """Tokens to the loss of the next one."""

    def __init__(self, layers: int, width: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(vocabulary, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return functional.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def build(layers: int, width: int, vocabulary: int, tokens: int) -> tuple[Language, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    inputs = torch.randint(vocabulary, (4, tokens // 4))
    return Language(layers, width, vocabulary), (inputs, inputs.roll(1, 1))


def compiled() -> tuple[Language, tuple[Tensor, Tensor]]:
    """The model of docs/fit.md, for `memsched fit`: its forward and backward."""
    return build(4, 128, 8192, 1024)


def step() -> tuple[Language, tuple[Tensor, Tensor], torch.optim.Optimizer]:
    """The same with its optimizer: the step of `memsched.train_step`."""
    model, batch = compiled()
    return model, batch, torch.optim.SGD(model.parameters(), lr=0.1)


def measure(way: str) -> float:
    """MiB of one step of the model of docs/fit.md."""
    model, batch = compiled()
    options = {"peak_budget": "0.05x"}
    if way == "train_step":
        train = memsched.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), options=options)
    else:
        how = {"backend": "inductor"} if way == "stock" else {"backend": "memsched", "options": options}
        run_model = torch.compile(model, **how)

    def run() -> None:
        if way == "train_step":
            train(*batch)
        else:
            run_model(*batch).backward()
            model.zero_grad(set_to_none=True)

    run()
    run()
    return measure_peak(run) / 2**20


def main() -> None:
    if "--real" in sys.argv:
        for way in ("stock", "compile", "train_step"):
            torch._dynamo.reset()
            print(f"{way:10} {measure(way):8.2f} MiB", flush=True)
        return
    model, batch = build(1, 16, 512, 256)
    print(memsched.fit(model, *batch, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), budget="0.6x"))


if __name__ == "__main__":
    main()
